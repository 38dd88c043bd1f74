import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { nodeFinding } from '../../../src/cli/doctor.ts';
import { checkoutRoot } from '../../../src/setup/paths.ts';
import { findOnPath } from '../../../src/setup/qemu.ts';

const script = 'src/setup/check-node.sh';
const make = findOnPath('make');
const tooOld = 'Node 18.20.4 will not do: 20.19 or later';

let folder: string;
let bin: string;

/** A program in front of the real ones that notes that it was called, and then runs `text`. */
function fake(name: string, text = ''): void {
  const path = join(bin, name);
  writeFileSync(path, `#!/bin/sh\necho "${name} $*" >>"${folder}/called"\n${text}\n`);
  chmodSync(path, 0o755);
}

function called(): string {
  const log = join(folder, 'called');
  return existsSync(log) ? readFileSync(log, 'utf8') : '';
}

/** This checkout's `files`, alone in a folder. */
function copy(...files: string[]): void {
  for (const file of files) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    copyFileSync(join(checkoutRoot(), file), join(folder, file));
  }
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-companion-node-'));
  bin = join(folder, 'bin');
  mkdirSync(bin);
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('the version of Node', () => {
  it.each([
    ['18.20.4', false],
    ['20.15.1', false],
    ['20.19.0', true],
    ['21.7.3', false],
    ['22.11.0', false],
    ['22.12.0', true],
    ['24.0.0', true],
  ])('%s: %s, for make, CI and doctor', async (version, enough) => {
    const ended = await execa(join(checkoutRoot(), script), [version], { reject: false });
    expect(ended.exitCode).toBe(enough ? 0 : 1);
    expect(ended.stderr !== '').toBe(!enough);
    expect(nodeFinding(version).state).toBe(enough ? 'ok' : 'fault');
  });

  it.each([
    ['20.19.2+dfsg-1', 0, ''],
    ['v18.20.4', 1, tooOld],
    ['', 1, 'There is no Node: '],
    ['nonsense', 1, 'Node nonsense will not do'],
  ])('"%s" is understood', async (version, status, message) => {
    const ended = await execa(join(checkoutRoot(), script), [version], { reject: false });
    expect(ended.exitCode).toBe(status);
    expect(ended.stderr).toContain(message);
  });
});

describe.skipIf(make === undefined)('make', () => {
  it.each([
    ['too old', 'echo 18.20.4', tooOld],
    ['not there', 'exit 127', 'There is no Node'],
  ])('installs nothing for a Node that is %s', async (_, text, message) => {
    copy('Makefile', script, 'package-lock.json');
    fake('node', text);
    fake('npm');
    // Without what an outer make was called with.
    const env = { PATH: `${bin}:${process.env.PATH}`, MAKEFLAGS: '' };
    const ended = await execa('make', ['build'], { cwd: folder, env, reject: false });
    expect(ended.exitCode).not.toBe(0);
    expect(ended.stderr).toContain(message);
    expect(called()).not.toContain('npm');
  });
});

describe.skipIf(make === undefined)('make in a checkout that has been used', () => {
  it('does nothing with a Node that has become too old', async () => {
    copy('Makefile', script, 'package-lock.json');
    mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true });
    writeFileSync(join(folder, 'node_modules/.installed'), '');
    symlinkSync(join(bin, 'tsc'), join(folder, 'node_modules/.bin/tsc'));
    writeFileSync(join(folder, 'tsconfig.json'), '{}');
    fake('node', 'echo 18.20.4');
    fake('tsc');
    const env = { PATH: `${bin}:${process.env.PATH}`, MAKEFLAGS: '' };
    const ended = await execa('make', ['build'], { cwd: folder, env, reject: false });
    expect(ended.exitCode).not.toBe(0);
    expect(ended.stderr).toContain(tooOld);
    expect(called()).not.toContain('tsc');
  });
});

describe('.ci/run', () => {
  async function run(): Promise<{ exitCode?: number | undefined; stdout: string; stderr: string }> {
    copy('.ci/run', script);
    for (const name of ['bash', 'dirname', 'sed', 'sh', 'mktemp', 'rm']) {
      symlinkSync(findOnPath(name) ?? name, join(bin, name));
    }
    for (const name of ['make', 'gcc', 'npm', 'flock', 'apt-get']) fake(name);
    fake('id', 'echo 0');
    return await execa(join(folder, '.ci/run'), { env: { PATH: bin }, reject: false });
  }

  it('does nothing with a Node that is too old', async () => {
    fake('node', 'echo 18.20.4');
    const ended = await run();
    expect(ended).toMatchObject({ exitCode: 1, stdout: '0 passed, 1 failed' });
    expect(ended.stderr).toContain(tooOld);
    expect(called()).not.toMatch(/make|apt-get/);
  });

  it("does not install Debian's where that is too old", async () => {
    fake('apt-cache', "printf 'nodejs:\\n  Installed: (none)\\n  Candidate: 18.20.4+dfsg-1~deb12u1\\n'");
    const ended = await run();
    expect(ended).toMatchObject({ exitCode: 1, stdout: '0 passed, 1 failed' });
    expect(ended.stderr).toContain('Node 18.20.4+dfsg-1~deb12u1 will not do');
    expect(called()).not.toMatch(/make|apt-get/);
  });

  it("installs Debian's where that will do, and gives the tests to make", async () => {
    fake('apt-cache', "echo '  Candidate: 20.19.2+dfsg-1'");
    await run();
    expect(called()).toMatch(/^apt-get -q install .*nodejs.*$/m);
    expect(called()).toMatch(/^make test /m);
    expect(called()).not.toContain('gpgv');
  });
});
