import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { probeKvm } from '../../../src/setup/accel.ts';
import type { GuestKernel } from '../../../src/setup/image.ts';
import type { Qemu } from '../../../src/setup/qemu.ts';

const kernel: GuestKernel = { name: 'bookworm', release: '6', vmlinuz: '/k', boot: '/k', initrd: '/i' };

let folder: string;
let cache: string;

/** A program in QEMU's place that runs `script`. */
function fakeQemu(script: string): Qemu {
  const command = join(folder, 'qemu');
  writeFileSync(command, `#!/bin/sh\n${script}\n`);
  chmodSync(command, 0o755);
  return { command, args: [], version: '11.1.3', vfioUser: true, source: 'environment' };
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-companion-accel-'));
  cache = join(folder, 'cache');
  vi.stubEnv('VFIO_COMPANION_CACHE', cache);
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

describe('probeKvm', () => {
  it('answers where the cache cannot be written to', async () => {
    // A file in the place of the folder stops root too.
    writeFileSync(cache, '');
    expect(await probeKvm(fakeQemu('exit 1'), kernel)).toMatchObject({ works: false });
  });

  it('leaves no draft where its file cannot be replaced', async () => {
    mkdirSync(join(cache, 'accelerator.json/in the way'), { recursive: true });
    expect(await probeKvm(fakeQemu('exit 1'), kernel)).toMatchObject({ works: false });
    expect(readdirSync(cache)).toEqual(['accelerator.json']);
    expect(existsSync(join(cache, 'accelerator.json/in the way'))).toBe(true);
  });
});
