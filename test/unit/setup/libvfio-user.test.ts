import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execaSync } from 'execa';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { extract, locateLibvfioUser, originOf } from '../../../src/setup/libvfio-user.ts';
import { libraryFault, libraryGeneration, requiredSymbols } from '../../../src/setup/libvfio-user-library.ts';
import { findOnPath } from '../../../src/setup/qemu.ts';

const compiler = findOnPath('cc') ?? findOnPath('gcc');
const currentMarker = 'const char *marker(void) { return "hit max regions %zu"; }';
const olderMarker = 'const char *marker(void) { return "hit max regions %d"; }';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-libvfio-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A shared object that has `names` as empty functions. */
function stub(file: string, names: readonly string[], extra: string): string {
  const path = join(folder, file);
  const source = `${names.map((name) => `void ${name}(void) {}`).join('\n')}\n${extra}\n`;
  execaSync(compiler ?? 'cc', ['-shared', '-fPIC', '-x', 'c', '-', '-o', path], { input: source });
  return path;
}

describe('where the library is from', () => {
  test('is read from the name of the source tarball', () => {
    expect(originOf('qemu_7.2+dfsg.orig.tar.xz')).toBe('qemu 7.2+dfsg');
  });

  test('nothing selected and nothing built is no library', () => {
    expect(locateLibvfioUser({}, join(folder, 'empty'))).toBeUndefined();
    expect(locateLibvfioUser({ LIBVFIO_USER: '' }, join(folder, 'empty'))).toBeUndefined();
  });

  test('a selected library that is not there is named', () => {
    expect(() => locateLibvfioUser({ LIBVFIO_USER: '/nowhere/libvfio-user.so' })).toThrow(
      /^\/nowhere\/libvfio-user\.so: cannot be loaded/,
    );
  });

  test('a file that is no library is refused', () => {
    const path = join(folder, 'text.so');
    writeFileSync(path, 'not an ELF file, but long enough to have had a header of one');
    expect(libraryFault(path)).toMatch(/^cannot be loaded/);
  });
});

test('the source is unpacked by an xz whose path has a blank', async () => {
  const [tools, out] = [join(folder, 'a b/tools'), join(folder, 'a b/out')];
  for (const path of [join(tools, 'usr/bin'), out]) mkdirSync(path, { recursive: true });
  const xz = join(tools, 'usr/bin/xz');
  writeFileSync(xz, '#!/bin/sh\nexec cat "$2"\n');
  chmodSync(xz, 0o755);
  const copy = join(folder, 'src/qemu-7/subprojects/libvfio-user/lib');
  mkdirSync(copy, { recursive: true });
  writeFileSync(join(copy, 'dma.c'), 'text');
  const tarball = join(folder, 'a b/qemu_7.orig.tar.xz');
  execaSync('tar', ['-c', '-f', tarball, '-C', join(folder, 'src'), 'qemu-7']);
  await extract(tarball, out, tools);
  expect(readFileSync(join(out, 'lib/dma.c'), 'utf8')).toBe('text');
  await expect(extract(join(folder, 'no tarball'), out, tools)).rejects.toThrow('cannot unpack');
});

describe.skipIf(compiler === undefined)('a library is looked at before it is called', () => {
  test('upstream and the 2022 copy are told apart', () => {
    const current = stub('v2.so', requiredSymbols, currentMarker);
    const debian = stub('v1.so', [...requiredSymbols, 'vfu_get_migr_register_area_size'], olderMarker);
    expect(libraryFault(current)).toBeUndefined();
    expect(libraryGeneration(current)).toBe('v2');
    expect(libraryFault(debian)).toBeUndefined();
    expect(libraryGeneration(debian)).toBe('v1');
    expect(locateLibvfioUser({ LIBVFIO_USER: current })).toMatchObject({
      path: current,
      generation: 'v2',
      source: 'environment',
    });
  });

  test('a missing symbol is named', () => {
    const path = stub(
      'partial.so',
      requiredSymbols.filter((name) => name !== 'vfu_sgl_mark_dirty'),
      currentMarker,
    );
    expect(() => locateLibvfioUser({ LIBVFIO_USER: path })).toThrow(
      `${path}: has no symbol vfu_sgl_mark_dirty`,
    );
  });

  test('the versions between, with the same symbols and another signature, are refused', () => {
    expect(libraryFault(stub('between.so', requiredSymbols, olderMarker))).toMatch(
      /vfu_setup_device_dma differs/,
    );
  });

  test('a library for another machine is refused', () => {
    const image = readFileSync(stub('native.so', requiredSymbols, currentMarker));
    image.writeUInt16LE(0xf3, 18); // e_machine: RISC-V
    const path = join(folder, 'riscv.so');
    writeFileSync(path, image);
    expect(libraryFault(path)).toMatch(/^cannot be loaded/);
  });
});
