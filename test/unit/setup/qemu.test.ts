import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findOnPath, findSystemQemu } from '../../../src/setup/qemu.ts';

let folder: string;

/** A program that says of itself what QEMU would, in a folder of its own. */
function fakeQemu(name: string, version: string, devices: string): string {
  const path = join(folder, name);
  mkdirSync(path);
  const program = join(path, 'qemu-system-x86_64');
  writeFileSync(
    program,
    `#!/bin/sh\nif [ "$1" = --version ]; then echo 'QEMU emulator version ${version}'; else echo '${devices}'; fi\n`,
  );
  chmodSync(program, 0o755);
  return path;
}

const withClient = 'name "vfio-user-pci", bus PCI';
const withoutClient = 'name "vfio-pci", bus PCI';

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-companion-qemu-'));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('findSystemQemu', () => {
  it('takes the one on PATH if it is new enough and has the client', async () => {
    const path = fakeQemu('new', '10.2.1', withClient);
    expect(await findSystemQemu({ PATH: `${join(folder, 'nothing')}:${path}` })).toEqual({
      command: join(path, 'qemu-system-x86_64'),
      args: [],
      version: '10.2.1',
      vfioUser: true,
      source: 'system',
    });
  });

  it.each([
    ['too old', '10.0.13', withClient],
    ['built without the client', '11.1.3', withoutClient],
  ])('leaves one alone that is %s', async (_, version, devices) => {
    expect(await findSystemQemu({ PATH: fakeQemu('other', version, devices) })).toBeUndefined();
  });

  it('finds none', async () => {
    expect(await findSystemQemu({ PATH: folder })).toBeUndefined();
  });

  it('prefers the one that is named, and does not fall back when that will not do', async () => {
    const good = join(fakeQemu('named', '11.1.3', withClient), 'qemu-system-x86_64');
    const bad = join(fakeQemu('bad', '11.1.3', withoutClient), 'qemu-system-x86_64');
    const PATH = fakeQemu('path', '10.2.1', withClient);
    expect(await findSystemQemu({ PATH, VFIO_COMPANION_QEMU: good })).toMatchObject({
      command: good,
      source: 'environment',
    });
    await expect(findSystemQemu({ PATH, VFIO_COMPANION_QEMU: bad })).rejects.toThrow('without vfio-user-pci');
    const missing = join(folder, 'missing');
    await expect(findSystemQemu({ PATH, VFIO_COMPANION_QEMU: missing })).rejects.toThrow(
      `${missing} does not run: it cannot be started: ENOENT`,
    );
  });
});

describe('findOnPath', () => {
  it('takes only what can be executed', () => {
    writeFileSync(join(folder, 'data'), '');
    expect(findOnPath('data', folder)).toBeUndefined();
    expect(findOnPath('sh', '/bin')).toBe('/bin/sh');
  });
});
