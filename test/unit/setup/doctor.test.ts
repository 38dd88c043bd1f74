import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { describeFindings, doctor } from '../../../src/cli/doctor.ts';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-companion-doctor-'));
  vi.stubEnv('VFIO_COMPANION_CACHE', folder);
  vi.stubEnv('VFIO_COMPANION_QEMU', '');
  vi.stubEnv('LIBVFIO_USER', '');
  vi.stubEnv('KERNEL', '');
  vi.stubEnv('PATH', folder);
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

describe('doctor', () => {
  it('finds faults where nothing was set up, each with what to do', async () => {
    const findings = await doctor();
    const faults = findings.filter(({ state }) => state === 'fault').map(({ name }) => name);
    expect(faults).toEqual(['QEMU', 'guest kernel bookworm']);
    for (const finding of findings) {
      if (finding.state !== 'ok') expect(finding.remedy, finding.name).toMatch(/\S/);
    }
    const gaps = findings.filter(({ state }) => state === 'gap').map(({ name }) => name);
    expect(gaps).toEqual(expect.arrayContaining(['KVM', 'libvfio-user', 'gcc', 'guest kernel trixie']));
  });

  it('names what is wrong with a QEMU that was chosen by hand', async () => {
    vi.stubEnv('VFIO_COMPANION_QEMU', join(folder, 'no-such-qemu'));
    const qemu = (await doctor()).find(({ name }) => name === 'QEMU');
    expect(qemu).toMatchObject({ state: 'fault', remedy: 'correct or unset VFIO_COMPANION_QEMU' });
  });

  it('tells of a cache folder that set-up can put nothing into', async () => {
    const cache = async (place: string) => {
      vi.stubEnv('VFIO_COMPANION_CACHE', place);
      return (await doctor()).find(({ name }) => name === 'cache');
    };
    const file = join(folder, 'file');
    writeFileSync(file, '');
    expect(await cache(join(file, 'cache'))).toMatchObject({
      state: 'gap',
      value: `${file}/cache cannot be written to`,
      remedy: expect.stringContaining('VFIO_COMPANION_CACHE'),
    });
    const made = join(folder, 'to/be/made');
    expect(await cache(made)).toEqual({ name: 'cache', state: 'ok', value: made });
  });

  it('needs the guest kernel that was chosen, and no other', async () => {
    vi.stubEnv('KERNEL', 'trixie');
    const stateOf = new Map((await doctor()).map(({ name, state }) => [name, state]));
    expect(stateOf.get('guest kernel trixie')).toBe('fault');
    expect(stateOf.get('guest kernel bookworm')).toBe('gap');
    vi.stubEnv('KERNEL', 'nonsense');
    expect((await doctor()).find(({ name }) => name === 'KERNEL')).toMatchObject({
      state: 'fault',
      value: 'no guest kernel is called nonsense',
      remedy: 'use one of bookworm, trixie, backports',
    });
  });

  it('prints one line for a finding and one for its remedy', () => {
    const text = describeFindings([
      { name: 'a', state: 'ok', value: 'fine' },
      { name: 'long', state: 'fault', value: 'none', remedy: 'make setup' },
    ]);
    expect(text.split('\n')).toEqual([
      'ok     a     fine',
      'FAULT  long  none',
      '             → make setup',
      '',
    ]);
  });
});
