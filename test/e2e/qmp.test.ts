import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import BareQmp from 'qemu-qmp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DeadlineError, LaunchError, launchVm, Qmp, QmpError, type Vm } from '../../src/qemu/index.ts';
import { alive } from './migration-world.ts';

let vm: Vm;
beforeAll(async () => {
  vm = await launchVm({ boot: 'none', memoryMiB: 64, accel: 'tcg' });
});
afterAll(() => vm.close());

describe('the bare qemu-qmp package against a real QEMU', () => {
  it('gets out of step at the first empty reply', async () => {
    const bare = new BareQmp();
    await new Promise<void>((resolve) => {
      (bare.connect as unknown as (path: string, connected: () => void) => void)(vm.migrationQmpPath, () =>
        resolve(),
      );
    });
    const first = new Promise<unknown>((resolve) => {
      bare.execute('human-monitor-command', { 'command-line': 'o /b 0x80 0' }, (_error, value) =>
        resolve(value),
      );
    });
    bare.execute('query-status', null, () => undefined);
    // The answer to query-status is taken for that of the command before it.
    expect(await first).toMatchObject({ status: 'running' });
    bare.destroy();
  });
});

describe('Qmp against a real QEMU', () => {
  it('knows the version, and stays in step over empty replies and errors', async () => {
    const qmp = await Qmp.connect(vm.migrationQmpPath);
    try {
      expect(qmp.version.major).toBeGreaterThanOrEqual(10);
      const [empty, status, refused, text] = await Promise.all([
        qmp.hmp('o /b 0x80 0'),
        qmp.execute('query-status'),
        qmp.execute('no-such-command').catch((error: unknown) => error),
        qmp.hmp('info version'),
      ]);
      expect(empty).toBe('');
      expect(status).toMatchObject({ status: 'running' });
      expect(refused).toBeInstanceOf(QmpError);
      expect(text).toMatch(/^\d+\.\d+/);
    } finally {
      await qmp.close();
    }
  });

  it('executes an anticipated command when told, and never one that was withdrawn', async () => {
    const qmp = await Qmp.connect(vm.migrationQmpPath);
    try {
      qmp.anticipate('quit');
      // Withdraws it: QEMU refuses the request for its unknown member, and goes on.
      expect(await qmp.execute('query-status')).toMatchObject({ status: 'running' });
      const before = qmp.lastEvent;
      qmp.anticipate('stop');
      expect(qmp.seen('STOP', before)).toBeUndefined();
      await qmp.execute('stop');
      expect(qmp.seen('STOP', before)).toBeDefined();
      qmp.anticipate('stop');
      await qmp.execute('cont');
      expect(await qmp.execute('query-status')).toMatchObject({ status: 'running' });
      expect(alive(vm.pid)).toBe(true);
    } finally {
      await qmp.close();
    }
  });

  it('ends a session with an anticipated command, which is never executed', async () => {
    const qmp = await Qmp.connect(vm.migrationQmpPath);
    qmp.anticipate('quit');
    await qmp.close();
    const next = await Qmp.connect(vm.migrationQmpPath);
    expect(await next.execute('query-status')).toMatchObject({ status: 'running' });
    await next.close();
  });

  it('delivers events with their time', async () => {
    const before = vm.qmp.lastEvent;
    await vm.qmp.execute('stop');
    await vm.qmp.execute('cont');
    const stop = await vm.qmp.waitFor('STOP', () => true, { timeoutMs: 5000, after: before });
    const resume = await vm.qmp.waitFor('RESUME', () => true, { timeoutMs: 5000, after: before });
    expect(resume.timeUs).toBeGreaterThan(stop.timeUs);
    expect(Math.abs(stop.timeUs / 1000 - Date.now())).toBeLessThan(60_000);
  });

  it('says that a monitor serves one client at a time', async () => {
    const one = await Qmp.connect(vm.migrationQmpPath);
    const error = await Qmp.connect(vm.migrationQmpPath, { timeoutMs: 300 }).catch(
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(DeadlineError);
    expect((error as DeadlineError).hint).toMatch(/one client/);
    await one.close();
  });
});

describe('launchVm', () => {
  it("gives QEMU's own words when it ends early, and leaves nothing behind", async () => {
    const error = await launchVm({ boot: 'none', args: ['-device', 'no-such-device'] }).catch(
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(LaunchError);
    expect((error as LaunchError).message).toContain('no-such-device');
  });

  it('refuses socket paths that are too long for the system', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'vc-long-'));
    try {
      await expect(launchVm({ boot: 'none' }, { folder: join(folder, 'x'.repeat(100)) })).rejects.toThrow(
        /too long/,
      );
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('ends QEMU when it is closed', async () => {
    const other = await launchVm({ boot: 'none', memoryMiB: 32, accel: 'tcg' });
    await other.close();
    expect(alive(other.pid)).toBe(false);
    await other.close();
  });
});
