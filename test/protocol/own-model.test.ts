/** A device model from outside of this tree, as docs/writing-a-device.md shows it, served by the built program. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { migrationState } from '../../src/migration/state.ts';
import { type ServedDevice, serveDevice } from '../../src/qemu/index.ts';
import { checkoutRoot } from '../../src/setup/index.ts';
import { VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { compile, makeProject } from './installed-package.ts';

const program = fileURLToPath(new URL('../../dist/src/cli/main.js', import.meta.url));
const loader = new URL('../../dist/src/runtime/model-module.js', import.meta.url).href;
const guide = fileURLToPath(new URL('../../docs/writing-a-device.md', import.meta.url));
const register = { sum: 0, add: 4 } as const;

let folder: string;
const served: ServedDevice[] = [];

/** The code of the documentation behind `heading`, to the letter. */
function codeBehind(heading: string): string {
  const rest = readFileSync(guide, 'utf8').split(heading)[1];
  const text = /\n\n```\w+\n(.*?)```/s.exec(rest ?? '')?.[1];
  if (text === undefined) throw new Error(`the documentation has no example: ${heading}`);
  return text;
}

const example = (): string => codeBehind('This is all of `adder.mjs`:');

function place(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

async function serve(options: Partial<Parameters<typeof serveDevice>[0]>): Promise<VfioUserClient> {
  const device = await serveDevice({ model: join(folder, 'adder.mjs'), ...options });
  served.push(device);
  return VfioUserClient.connect(device.socket);
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-own-'));
  place('adder.mjs', example());
  // Something of our name that is no use: the program's own library is what a model gets.
  mkdirSync(join(folder, 'node_modules/vfio-companion'), { recursive: true });
  place(
    'node_modules/vfio-companion/package.json',
    '{"name":"vfio-companion","exports":{"./device":"./no.js"}}',
  );
});
afterAll(async () => {
  await Promise.all(served.map((device) => device.close()));
  rmSync(folder, { recursive: true, force: true });
});

it('the unit test of the documentation does what it says', async () => {
  const text = codeBehind('## 5. Trying it')
    .replaceAll("'../../", `'${checkoutRoot()}/dist/`)
    .replaceAll(".ts'", ".js'");
  const said = 'console.log(host.dma.bytes.toString("latin1", 0x4000, 0x4003), host.triggered)';
  const { stdout } = await execa(process.execPath, ['--input-type=module', '-e', `${text}\n${said}`]);
  expect(stdout).toBe('Hi\0 [ 0 ]');
});

describe('a model in a file of its own', () => {
  it('is loaded without a warning of Node', async () => {
    const { stdout, stderr } = await execa(process.execPath, [program, 'models', join(folder, 'adder.mjs')]);
    expect(stdout).toMatch(/^adder/);
    expect(stderr).toBe('');
  });

  it('is served, with its options, and travels', async () => {
    const [one, other] = await Promise.all([serve({ set: { start: 100 } }), serve({})]);
    expect(served.map(({ name }) => name)).toEqual(['adder', 'adder']);
    one.writeRegister(0, register.add, 11);
    one.writeRegister(0, register.add, 31);
    expect(one.readRegister(0, register.sum)).toBe(142);
    expect(other.readRegister(0, register.sum)).toBe(0);
    for (const state of [migrationState.STOP, migrationState.STOP_COPY]) one.setState(state);
    for (const state of [migrationState.STOP, migrationState.RESUMING]) other.setState(state);
    for (let bytes = one.readState(65_536); bytes.length > 0; bytes = one.readState(65_536))
      other.writeState(bytes);
    for (const state of [migrationState.STOP, migrationState.RUNNING]) other.setState(state);
    expect(other.readRegister(0, register.sum)).toBe(142);
    for (const client of [one, other]) client.close();
  });

  it('is listed, by a relative path, too', async () => {
    const { stdout } = await execa(process.execPath, [program, 'models', './adder.mjs'], { cwd: folder });
    expect(stdout).toBe(
      'adder: adds up what is written\n  start (number, 0.., default 0): what it starts with',
    );
  });

  it('compiles in TypeScript with the two changes that the documentation names, and is listed', async () => {
    const typed = join(folder, 'typed');
    makeProject(typed);
    const [constant, looked] = ['} as const;', "'value' in record ? record.value : undefined"];
    for (const change of [constant, looked]) expect(readFileSync(guide, 'utf8')).toContain(change);
    const changed = example().replace(/^};$/m, constant);
    const complaints = async (text: string) => (await compile(typed, { 'adder.ts': text })).join('\n');
    expect(await complaints(example())).toMatch(/'number' is not assignable to type '1 \| 2 \| 4 \| 8'/);
    expect(await complaints(changed)).toMatch(/'value' does not exist/);
    expect(await complaints(changed.replace('record.value', looked))).toBe('');
    const { stdout } = await execa(process.execPath, [program, 'models', './adder.js'], { cwd: typed });
    expect(stdout).toMatch(/^adder: adds up what is written$/m);
  });

  const mistakes: readonly [what: string, name: string, text: string, says: RegExp, hint: RegExp][] = [
    ['is not there', 'none.mjs', '', /there is no file \S+none\.mjs$/, /path of a module/],
    [
      'is not JavaScript',
      'bad.mjs',
      'export default {',
      /can't be imported: /,
      /node --check \S+bad\.mjs says/,
    ],
    ['is TypeScript', 'typed.ts', 'export default 1 as number', /can't be imported: |no object/, /tsc|docs/],
    [
      'imports what is not there',
      'import.mjs',
      'import "no-such-package"',
      /Cannot find/,
      /install what it imports/,
    ],
    [
      'fails',
      'fails.mjs',
      '\nthrow new Error("oh")',
      /can't be imported: oh/,
      /it fails at \S+fails\.mjs:2:7/,
    ],
    [
      'exports something else',
      'pi.mjs',
      'export const pi = 3',
      /exports no device model, only pi/,
      /defineModel/,
    ],
    [
      'exports a model with faults',
      'faults.mjs',
      'export default { name: "x", create() {}, options: { a: 1 } }',
      /no device model: description is .*; stateVersion is .*; options\.a is .*; pci is no function/,
      /writing-a-device/,
    ],
  ];
  /** Loads all of them in one process, as the program does, and tells what was thrown. */
  const attempts = `
    const { loadModel } = await import(process.argv[1]);
    const tell = ({ code, message, hint }) => ({ code, message, hint });
    const results = [];
    for (const path of process.argv.slice(2)) results.push(await loadModel(path).then(() => 'loaded', tell));
    console.log(JSON.stringify(results));`;

  it('is refused, with the reason and the way out, when something is wrong with it', async () => {
    const paths = mistakes.map(([, name, text]) => (text === '' ? join(folder, name) : place(name, text)));
    const { stdout } = await execa(
      process.execPath,
      ['--input-type=module', '-e', attempts, loader, ...paths, './adder.mjs'],
      { cwd: folder },
    );
    const results = JSON.parse(stdout) as unknown[];
    for (const [index, [what, , , says, hint]] of mistakes.entries())
      expect(results[index], `a module that ${what}`).toEqual({
        code: 'VC_MODEL_MODULE',
        message: expect.stringMatching(says),
        hint: expect.stringMatching(hint),
      });
    expect(results.at(-1)).toBe('loaded');
  });
});
