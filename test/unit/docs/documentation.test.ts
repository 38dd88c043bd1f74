/** The documents and the program say the same, as far as a program can tell. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { registerAsk } from '../../../src/cli/ask.ts';
import { registerDemo } from '../../../src/cli/demo.ts';
import { registerDoctor } from '../../../src/cli/doctor.ts';
import { registerMigrate } from '../../../src/cli/migrate.ts';
import { registerModels } from '../../../src/cli/models.ts';
import { registerRecover } from '../../../src/cli/recover.ts';
import { registerRestore, registerSave } from '../../../src/cli/saved.ts';
import { registerServe } from '../../../src/cli/serve.ts';
import { registerSetup } from '../../../src/cli/setup.ts';
import { registerSwitch } from '../../../src/cli/switch.ts';
import { checkoutRoot } from '../../../src/setup/index.ts';
import { anchorsOf, brokenLinks, documentsBelow, optionsIn } from './markdown.ts';

const root = checkoutRoot();
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const documents = documentsBelow(root);
/** Where somebody looks who wants to use the program. */
const manuals = documents.filter((path) => path === 'README.md' || /^docs\/[^/]+\.md$/.test(path));

const program = new Command();
for (const register of [
  ...[registerServe, registerMigrate, registerRecover, registerModels],
  ...[registerSwitch, registerAsk, registerDoctor, registerSetup, registerDemo],
  ...[registerSave, registerRestore],
])
  register(program);

describe('documents', () => {
  it('are found', () => {
    expect(documents).toEqual(expect.arrayContaining(['README.md', 'docs/migration.md', 'bench/README.md']));
    expect(manuals.length).toBeGreaterThan(6);
  });

  it.each(documents)('%s has no link that leads nowhere', (path) => {
    expect(brokenLinks(root, path, read(path))).toEqual([]);
  });

  it('negative control: a link that leads nowhere is found, in text only', () => {
    const text =
      '# One `two`: three!\n[a](migration.md#downtime) [b](#one-two-three)\n```\n[x](no.md)\n# no\n```\n';
    expect(anchorsOf(text)).toEqual(new Set(['one-two-three']));
    const wrong = '[c](no.md) [d](migration.md#no) [e](../README.md) [f](https://example.org)';
    expect(brokenLinks(root, 'docs/migration.md', `[a](#downtime) ${wrong}`)).toEqual([
      'no.md',
      'migration.md#no',
    ]);
  });
});

describe('options of the command line', () => {
  const documented = optionsIn(manuals.map(read).join('\n'));
  const flagsOf = (command: Command): string[] =>
    command.options.flatMap(({ flags }) => [...optionsIn(flags)]);

  it.each(program.commands.map((command) => [command.name(), command] as const))(
    'of %s are in the manuals',
    (_name, command) => {
      expect(flagsOf(command).filter((flag) => !documented.has(flag))).toEqual([]);
    },
  );

  it('of the manuals exist', () => {
    const known = new Set(program.commands.flatMap(flagsOf));
    expect([...documented].filter((flag) => !known.has(flag))).toEqual([]);
  });
});

it('environment variables are in the README, and are read', () => {
  const variables = /\b(?:VFIO_COMPANION_[A-Z0-9_]+|LIBVFIO_USER(?:_[A-Z]+)?)\b/g;
  const namesIn = (text: string): Set<string> => new Set(text.match(variables));
  const sources = (folder: string): string =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.ts'))
      .map((path) => read(join(folder, path)))
      .join('\n');
  const [program, scripts, tests] = [sources('src'), sources('qemu-scripts'), sources('test')];
  const documented = namesIn(read('README.md'));
  /** The demonstration tells itself by it that it runs in a namespace. */
  const internal = 'VFIO_COMPANION_DEMO_INSIDE';
  const used = [...namesIn(program + scripts)].filter((name) => name !== internal);
  expect(used.length).toBeGreaterThan(5);
  expect(used.filter((name) => !documented.has(name))).toEqual([]);
  expect([...documented].filter((name) => !namesIn(program + scripts + tests).has(name))).toEqual([]);
});

it('every room of src/ is in the architecture, and no other', () => {
  const rows = read('docs/architecture.md').matchAll(/^\| `([\w-]+)\/` \|/gm);
  const rooms = readdirSync(join(root, 'src'), { withFileTypes: true }).filter((entry) =>
    entry.isDirectory(),
  );
  expect([...rows].map(([, room]) => room).sort()).toEqual(rooms.map(({ name }) => name).sort());
});

it('every companion operation is in the protocol extensions, and no other', () => {
  const table = read('docs/protocol-extensions.md').match(/^\| op \|.*?\n\n/ms)?.[0] ?? '';
  const documented = [...table.matchAll(/^\| `(\w+)` \|/gm)].map(([, name]) => name);
  const [, body = ''] =
    /this\.#operations = \{\n(.*?)\n {4}\};/s.exec(read('src/runtime/companion.ts')) ?? [];
  const served = [...body.matchAll(/^ {6}(\w+): \(/gm)].map(([, name]) => name);
  expect(served.length).toBeGreaterThan(15);
  expect(documented.sort()).toEqual(served.sort());
});
