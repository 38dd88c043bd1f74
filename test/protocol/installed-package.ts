/** A project of somebody else's that has this package installed, and compiles TypeScript against its types. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { checkoutRoot } from '../../src/setup/index.ts';

const root = checkoutRoot();

export function makeProject(folder: string): void {
  const modules = join(folder, 'node_modules');
  mkdirSync(modules, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  symlinkSync(root, join(modules, 'vfio-companion'));
  for (const name of ['vitest', '@types']) symlinkSync(join(root, 'node_modules', name), join(modules, name));
}

/** Compiles files of the project, each to a `.js` beside it; returns the compiler's complaints. */
export async function compile(folder: string, sources: Readonly<Record<string, string>>): Promise<string[]> {
  for (const [name, text] of Object.entries(sources)) writeFileSync(join(folder, name), text);
  const options = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--types', 'node'];
  const { stdout } = await execa(
    join(root, 'node_modules/.bin/tsc'),
    [...options, '--skipLibCheck', ...Object.keys(sources)],
    { cwd: folder, reject: false },
  );
  return stdout.split('\n').filter((line) => line !== '');
}
