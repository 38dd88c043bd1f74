/** What can be checked of documents without understanding them. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Folders that hold no document of ours; so do hidden ones. */
const notOurs = new Set(['node_modules', 'dist']);

/** Paths of all Markdown files below `root`, relative to it. */
export function documentsBelow(root: string, folder = ''): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    const foreign = notOurs.has(entry.name) || entry.name.startsWith('.');
    if (entry.isDirectory()) return foreign ? [] : documentsBelow(root, path);
    return entry.name.endsWith('.md') ? [path] : [];
  });
}

function withoutCode(text: string): string {
  return text.replace(/^```.*?^```/gms, '');
}

/** What a heading is called in a link, by GitHub's rules. */
function anchorOf(heading: string): string {
  return heading
    .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}_\- ]/gu, '')
    .replaceAll(' ', '-');
}

export function anchorsOf(text: string): Set<string> {
  return new Set([...withoutCode(text).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => anchorOf(heading)));
}

/** Links of a document that lead nowhere in the tree below `root`. */
export function brokenLinks(root: string, path: string, text: string): string[] {
  const links = [...withoutCode(text).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target);
  return links.filter((link) => {
    if (/^https?:/.test(link)) return false;
    const [file = '', anchor] = link.split('#');
    const target = file === '' ? path : join(dirname(path), file);
    if (!existsSync(join(root, target))) return true;
    return anchor !== undefined && !anchorsOf(readFileSync(join(root, target), 'utf8')).has(anchor);
  });
}

/** All that looks like an option of a command line. */
export function optionsIn(text: string): Set<string> {
  return new Set([...text.matchAll(/(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]/g)].map(([option]) => option));
}
