import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { cpioArchive, type Entry } from '../../../images/cpio.ts';
import { compressedKernel } from '../../../src/setup/bzimage.ts';
import { SetupError } from '../../../src/setup/errors.ts';
import { listLibraries, moduleClosure } from '../../../src/setup/kernel.ts';
import { cacheRoot } from '../../../src/setup/paths.ts';
import { parseVersion, recentEnough } from '../../../src/setup/qemu.ts';

/** Reads a newc archive back: 6 bytes of magic, 13 fields of 8 hex digits, name, data, each 4-aligned. */
function readArchive(archive: Buffer): { name: string; mode: number; data: string; fields: number[] }[] {
  const found = [];
  for (let at = 0; at < archive.length; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const fields = Array.from({ length: 13 }, (_, i) =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * i, at + 14 + 8 * i), 16),
    );
    const nameSize = fields[11] ?? 0;
    const dataSize = fields[6] ?? 0;
    const name = archive.toString('latin1', at + 110, at + 110 + nameSize - 1);
    const dataAt = (at + 110 + nameSize + 3) & ~3;
    if (name === 'TRAILER!!!') return found;
    const data = archive.toString('latin1', dataAt, dataAt + dataSize);
    found.push({ name, mode: fields[1] ?? 0, data, fields });
    at = (dataAt + dataSize + 3) & ~3;
  }
  throw new Error('no trailer');
}

describe('cpioArchive', () => {
  const entries: Entry[] = [
    { kind: 'file', path: 'etc/a', mode: 0o755, data: Buffer.from('hello') },
    { kind: 'directory', path: 'etc' },
    { kind: 'link', path: 'bin', target: 'usr/bin' },
    { kind: 'device', path: 'dev-console', major: 5, minor: 1 },
  ];

  it('holds what was put in, folders first', () => {
    const members = readArchive(cpioArchive(entries));
    expect(members.map(({ name, mode, data }) => [name, mode.toString(8), data])).toEqual([
      ['bin', '120777', 'usr/bin'],
      ['dev-console', '20600', ''],
      ['etc', '40755', ''],
      ['etc/a', '100755', 'hello'],
    ]);
    expect(members[1]?.fields.slice(9, 11)).toEqual([5, 1]);
  });

  it('is the same for the same entries in another order', () => {
    expect(cpioArchive([...entries].reverse()).equals(cpioArchive(entries))).toBe(true);
  });

  it('refuses a name twice', () => {
    expect(() => cpioArchive([...entries, ...entries.slice(0, 1)])).toThrow('etc/a');
  });
});

describe('moduleClosure', () => {
  const dep = [
    'kernel/net/mlx5/mlx5_core.ko.xz: kernel/net/mlxfw.ko.xz kernel/net/psample.ko.xz',
    'kernel/net/mlxfw.ko.xz:',
    'kernel/net/psample.ko.xz:',
    'kernel/drivers/pci-hyperv-intf.ko:',
    'kernel/net/e1000e.ko: kernel/ptp.ko',
    'kernel/ptp.ko:',
  ].join('\n');

  it('brings what a module depends on, and nothing else', () => {
    expect(moduleClosure(dep, ['mlx5_core'])).toEqual([
      'kernel/net/mlx5/mlx5_core.ko.xz',
      'kernel/net/mlxfw.ko.xz',
      'kernel/net/psample.ko.xz',
    ]);
  });

  it('takes - and _ for the same, and leaves out what is built in', () => {
    expect(moduleClosure(dep, ['pci_hyperv_intf', 'virtio_pci'])).toEqual([
      'kernel/drivers/pci-hyperv-intf.ko',
    ]);
  });
});

describe('compressedKernel', () => {
  function image(magic: readonly number[]): Buffer {
    const bytes = Buffer.alloc(8192, 0xee);
    bytes[0x1f1] = 3;
    bytes.write('HdrS', 0x202, 'latin1');
    bytes.writeUInt32LE(0x100, 0x248);
    bytes.writeUInt32LE(1000, 0x24c);
    Buffer.from(magic).copy(bytes, 4 * 512 + 0x100);
    return bytes;
  }
  const xz = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00];

  it('finds the payload behind the set-up sectors, without the size that the build appends', () => {
    const found = compressedKernel(image(xz));
    expect(found?.format).toBe('xz');
    expect(found?.data.length).toBe(996);
    expect([...(found?.data.subarray(0, 6) ?? [])]).toEqual(xz);
    expect(compressedKernel(image([0x28, 0xb5, 0x2f, 0xfd]))?.format).toBe('zstd');
  });

  it('finds nothing in another format, a cut-off image or another file', () => {
    expect(compressedKernel(image([1, 2, 3, 4]))).toBeUndefined();
    expect(compressedKernel(image(xz).subarray(0, 2500))).toBeUndefined();
    expect(compressedKernel(Buffer.alloc(10_000))).toBeUndefined();
    expect(compressedKernel(Buffer.alloc(10))).toBeUndefined();
  });
});

describe('QEMU versions', () => {
  it.each([
    ['QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)', '11.1.3', true],
    ['QEMU emulator version 10.1.0', '10.1.0', true],
    ['QEMU emulator version 10.0.13 (Debian)', '10.0.13', false],
    ['QEMU emulator version 7.2.19', '7.2.19', false],
    ['QEMU emulator version 9.2.50', '9.2.50', false],
  ])('%s', (text, version, enough) => {
    expect(parseVersion(text)).toBe(version);
    expect(recentEnough(version)).toBe(enough);
  });

  it('is unknown in other text', () => {
    expect(parseVersion('command not found')).toBeUndefined();
  });
});

describe('cacheRoot', () => {
  it('follows its own variable, then XDG, then the home folder', () => {
    expect(cacheRoot({ VFIO_COMPANION_CACHE: '/a', XDG_CACHE_HOME: '/b' })).toBe('/a');
    expect(cacheRoot({ XDG_CACHE_HOME: '/b' })).toBe('/b/vfio-companion');
    expect(cacheRoot({ XDG_CACHE_HOME: 'relative' })).toMatch(/\/\.cache\/vfio-companion$/);
  });

  it('is absolute, so that every program means the same folder', () => {
    expect(cacheRoot({ VFIO_COMPANION_CACHE: '.cache/x' })).toBe(join(process.cwd(), '.cache/x'));
    expect(cacheRoot({ VFIO_COMPANION_CACHE: '/a b/c/' })).toBe('/a b/c');
  });

  it('refuses what apt or the dynamic loader would take for two folders', () => {
    for (const path of ['/a:b', '/a;b', '/a"b']) {
      expect(() => cacheRoot({ VFIO_COMPANION_CACHE: path }), path).toThrow(SetupError);
    }
  });

  it.each(['', 'relative'])('says what to set where HOME is "%s"', (home) => {
    vi.stubEnv('HOME', home);
    try {
      expect(() => cacheRoot({})).toThrow('no home folder');
      expect(cacheRoot({ XDG_CACHE_HOME: '/b' })).toBe('/b/vfio-companion');
    } finally {
      vi.unstubAllEnvs();
    }
  });
});

describe('listLibraries', () => {
  let folder: string;

  /** A userland, in a folder with a blank, whose dynamic loader prints `lines`. */
  function userland(...lines: string[]): string {
    const tree = join(folder, 'a b');
    const libraries = join(tree, 'usr/lib/x86_64-linux-gnu');
    mkdirSync(libraries, { recursive: true });
    const loader = join(libraries, 'ld-linux-x86-64.so.2');
    const all = lines.map((line) => line.replace('TREE', libraries));
    writeFileSync(loader, `#!/bin/sh\ncat <<'END'\n${all.join('\n')}\nEND\n`);
    chmodSync(loader, 0o755);
    return tree;
  }

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'vfio-companion-libraries-'));
  });

  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it('finds those of a tree whose path has a blank', async () => {
    const tree = userland(
      '\tlinux-vdso.so.1 (0x00007fff)',
      '\tlibc.so.6 => TREE/libc.so.6 (0x00007f00)',
      '\t/lib64/ld-linux-x86-64.so.2 => TREE/ld-linux-x86-64.so.2 (0x00007f10)',
    );
    const names = (await listLibraries(tree, 'bin/dash')).map((path) => relative(tree, path));
    const library = 'usr/lib/x86_64-linux-gnu';
    expect(names).toEqual([`${library}/ld-linux-x86-64.so.2`, `${library}/libc.so.6`]);
  });

  it.each([
    ['none at all', '\tlinux-vdso.so.1 (0x00007fff)', 'no libraries'],
    ['one that is nowhere', '\tlibmnl.so.0 => not found', 'libmnl.so.0 => not found'],
    ['one of this machine', '\tlibc.so.6 => /lib/libc.so.6 (0x00007f00)', "not in the guest's packages"],
  ])('does not go on with %s', async (_, line, message) => {
    await expect(listLibraries(userland(line), 'bin/dash')).rejects.toThrow(message);
  });
});
