import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { kvmFinding } from '../../../src/cli/doctor.ts';
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
    expect(await probeKvm(fakeQemu('exit 1'), kernel, { device: '/dev/null' })).toMatchObject({
      works: false,
    });
  });

  it('leaves no draft where its file cannot be replaced', async () => {
    mkdirSync(join(cache, 'accelerator.json/in the way'), { recursive: true });
    expect(await probeKvm(fakeQemu('exit 1'), kernel, { device: '/dev/null' })).toMatchObject({
      works: false,
    });
    expect(readdirSync(cache)).toEqual(['accelerator.json']);
    expect(existsSync(join(cache, 'accelerator.json/in the way'))).toBe(true);
  });

  /** Boots as far as its console is concerned. */
  const boots = `for a; do case $a in file:*) echo 'vc: guest is ready' >"\${a#file:}";; esac; done`;
  const hangs = 'exec sleep 10';
  /** Char devices that anybody may open, in the place of /dev/kvm. */
  const [device, another] = ['/dev/null', '/dev/zero'];
  const limitMs = 300;

  it('remembers that it works, and that it does not', async () => {
    expect(await probeKvm(fakeQemu(boots), kernel, { device })).toEqual({ works: true });
    expect(await probeKvm(fakeQemu('exit 1'), kernel, { device })).toEqual({ works: true });
    expect(await probeKvm(fakeQemu('exit 1'), kernel, { device, fresh: true })).toMatchObject({
      works: false,
    });
    expect(await probeKvm(fakeQemu(boots), kernel, { device })).toMatchObject({ works: false });
  });

  it('needs no guest where there is no device, and remembers nothing of it', async () => {
    expect(await probeKvm(fakeQemu(boots), kernel, { device })).toEqual({ works: true });
    const missing = join(folder, 'kvm');
    expect(await probeKvm(fakeQemu(boots), kernel, { device: missing })).toEqual({
      works: false,
      reason: `there is no ${missing}`,
    });
    symlinkSync(device, missing);
    expect(await probeKvm(fakeQemu(boots), kernel, { device: missing })).toEqual({ works: true });
    rmSync(missing);
    expect(await probeKvm(fakeQemu(boots), kernel, { device: missing })).toMatchObject({ works: false });
    // What cannot be opened for writing, whoever asks.
    mkdirSync(missing);
    expect(await probeKvm(fakeQemu(boots), kernel, { device: missing })).toMatchObject({
      reason: `${missing} cannot be opened: EISDIR`,
    });
  });

  it('asks again when the device is another', async () => {
    const link = join(folder, 'kvm');
    symlinkSync(device, link);
    expect(await probeKvm(fakeQemu('exit 1'), kernel, { device: link })).toMatchObject({ works: false });
    rmSync(link);
    symlinkSync(another, link);
    expect(await probeKvm(fakeQemu(boots), kernel, { device: link })).toEqual({ works: true });
  });

  it('has no other process believe a time-out, and waits for one only itself', async () => {
    const timeout = { works: false, timedOut: true };
    expect(await probeKvm(fakeQemu(hangs), kernel, { device, limitMs })).toMatchObject(timeout);
    expect(existsSync(join(cache, 'accelerator.json'))).toBe(false);
    expect(await probeKvm(fakeQemu(boots), kernel, { device })).toMatchObject(timeout);
    expect(await probeKvm(fakeQemu(boots), kernel, { device, fresh: true })).toEqual({ works: true });
    expect(await probeKvm(fakeQemu(hangs), kernel, { device, limitMs })).toEqual({ works: true });
  });

  it('is asked afresh by doctor, and answered so to all from then on', async () => {
    expect(await probeKvm(fakeQemu('exit 1'), kernel, { device })).toMatchObject({ works: false });
    expect(await kvmFinding(fakeQemu(boots), kernel, device)).toMatchObject({ name: 'KVM', state: 'ok' });
    expect(await probeKvm(fakeQemu('exit 1'), kernel, { device })).toEqual({ works: true });
    const finding = await kvmFinding(fakeQemu('echo no memory >&2; exit 1'), kernel, device);
    expect(finding).toMatchObject({ state: 'gap', value: 'does not run a guest (no memory); TCG is used' });
  });
});
