/** Guests that are saved to a folder and go on from there. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Flow } from '../../qemu-scripts/flows.ts';
import { plainNet } from '../../qemu-scripts/network.ts';
import { CompanionError } from '../../src/errors.ts';
import {
  type RestorePhase,
  restoreVm,
  type SavePhase,
  type Side,
  type Testbed,
  verifyRam,
} from '../../src/qemu/index.ts';
import { checkoutRoot } from '../../src/setup/index.ts';
import { rejectionOf } from '../thrown.ts';
import {
  alive,
  boot,
  bootNothing,
  churnCount,
  closeGuest,
  endOfTest,
  everything,
  expectChurn,
  expectWorkload,
  patient,
  ramId,
  sharedGuest,
  start,
  startChurn,
  startWorkload,
} from './migration-world.ts';
import * as mlx5 from './mlx5-world.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-saved-'));
});
afterEach(async (context) => {
  await mlx5.closeAll();
  await endOfTest(context);
  rmSync(folder, { recursive: true, force: true });
});
afterAll(closeGuest);

const place = (name = 'vm'): string => join(folder, name);

/** Restores into `side`, which becomes where the guest is. */
async function restoreInto(
  bed: Testbed,
  side: Side,
  from: string,
  onPhase: (phase: RestorePhase) => Promise<void> | void = () => undefined,
): Promise<void> {
  const devices = [...side.servers].map(([id, { migrationSocket }]) => ({ id, socket: migrationSocket }));
  const report = await restoreVm({
    qmp: side.vm.migrationQmpPath,
    devices,
    folder: from,
    verify: true,
    onPhase,
  });
  for (const device of report.devices) expect(device.stateEqual).toBe(true);
  bed.follow(side);
}

async function status({ current }: Testbed): Promise<unknown> {
  return current.vm.qmp.execute('query-status');
}

describe('a guest whose device writes its memory', () => {
  it('goes on from a folder as it was, page by page', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 300);
    await startWorkload(bed);
    const source = bed.current;
    const report = await bed.save(place());
    expect(report).toMatchObject({ wasRunning: true, resumed: false });
    expect(report.devices).toMatchObject([{ id: 'dev0', model: 'ram' }]);
    expect(await status(bed)).toMatchObject({ status: 'postmigrate' });
    const side = await bed.prepare();
    let differing: number | undefined;
    await restoreInto(bed, side, place(), async (phase) => {
      if (phase === 'resume') ({ differing } = await verifyRam(source.vm, side.vm));
    });
    expect(differing).toBe(0);
    await source.close();
    await expectChurn(bed, await churnCount(bed));
    await expectWorkload(bed);
    expect(await bed.agent.check('ramtest --mode poll')).not.toContain('not ok');
    // And can be migrated as any other.
    const migrated = await bed.migrate({ verify: everything, ...patient });
    expect(migrated.ram?.differing).toBe(0);
    await expectWorkload(bed);
  });

  it('may go on where it is, too; the comparison sees that it did', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 300);
    await startWorkload(bed);
    const source = bed.current;
    expect(await bed.save(place(), { resume: true })).toMatchObject({ resumed: true });
    await expectChurn(bed, await churnCount(bed));
    await expectWorkload(bed);
    await source.vm.qmp.execute('stop');
    const side = await bed.prepare();
    let differing: number | undefined;
    await restoreInto(bed, side, place(), async (phase) => {
      if (phase === 'resume') ({ differing } = await verifyRam(source.vm, side.vm));
    });
    expect(differing).toBeGreaterThan(0);
    await source.close();
    await expectWorkload(bed);
  });

  it('goes on from one folder in two VMs at once, each its own way, by the commands', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 100);
    const { vm, servers } = bed.current;
    const main = join(checkoutRoot(), 'dist/src/cli/main.js');
    const device = `dev0=${servers.get('dev0')?.migrationSocket}`;
    const how = ['--qmp', vm.migrationQmpPath, '--device', device, '--to', place(), '--resume'];
    const { stdout } = await execa(process.execPath, [main, 'save', ...how]);
    expect(stdout).toMatch(/^saved to .*: RAM [0-9.]+ MiB, dev0 \(ram\) .*\nthe guest goes on$/);
    const options = { vm: { append: 'mem=192M' }, saved: place() };
    const [one, two] = await Promise.all([start(options), start(options)]);
    await one.agent.check('echo one >/run/who');
    await two.agent.check('echo two >/run/who');
    for (const [each, who] of [
      [one, 'one'],
      [two, 'two'],
    ] as const) {
      await expectChurn(each, await churnCount(each));
      expect((await each.agent.check('cat /run/who')).trim()).toBe(who);
    }
    expect(await bed.agent.run('cat /run/who')).not.toMatchObject({ status: 0 });
  });
});

describe('machines and buses', () => {
  it.each<[string, Parameters<typeof boot>[0]]>([
    [
      'pc, with INTx',
      { vm: { machine: 'pc' }, devices: [{ id: 'dev0', model: 'ram', set: { interrupt: 'intx' } }] },
    ],
    [
      'a root port, and MSI beside it',
      {
        vm: { rootPorts: ['rp0'] },
        devices: [
          { id: 'dev0', model: 'ram', bus: 'rp0' },
          { id: 'dev1', model: 'ram', set: { interrupt: 'msi' }, args: ['--no-p2p', '--no-precopy'] },
        ],
      },
    ],
  ])('are restored: %s', async (_name, options) => {
    const bed = await boot(options);
    await startChurn(bed, 100);
    await bed.save(place());
    await bed.current.close();
    await restoreInto(bed, await bed.prepare(), place());
    await expectChurn(bed, await churnCount(bed));
    expect(await bed.agent.check('ramtest --mode poll')).not.toContain('not ok');
  });

  it('are restored with Bus Master off, and paused as they were', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 100);
    await bed.agent.check(`pcitool ${ramId} config-write 4 2 2`);
    await bed.current.vm.qmp.execute('stop');
    expect(await bed.save(place())).toMatchObject({ wasRunning: false });
    const side = await bed.prepare();
    const source = bed.current;
    await restoreInto(bed, side, place());
    await source.close();
    expect(await status(bed)).toMatchObject({ status: 'paused' });
    await bed.current.vm.qmp.execute('cont');
    expect(await bed.agent.check(`pcitool ${ramId} config-read 4 2`)).toMatch(/^(0x)?0*2$/);
    await bed.agent.check(`pcitool ${ramId} enable`);
    await expectChurn(bed, await churnCount(bed));
  });
});

describe('a network card', () => {
  it('goes on from a folder, its TCP connection with it', async () => {
    const network = await mlx5.makeNetwork();
    const bed = await mlx5.boot({ devices: [mlx5.card(network)] });
    const flow = network.peer === 'linux' ? await Flow.tcp(bed, network, plainNet, 7101, 300_000) : undefined;
    await mlx5.expectPings(bed, plainNet.peer);
    const before = await mlx5.counters(bed);
    const source = bed.current;
    await bed.save(place());
    // Nothing of it is left but the folder.
    await source.close();
    const side = await bed.prepare();
    await restoreInto(bed, side, place());
    await mlx5.expectPings(bed, plainNet.peer);
    const after = await mlx5.counters(bed);
    const frames = (after.get('rx_packets_phy') ?? 0) - (before.get('rx_packets_phy') ?? 0);
    expect(frames).toBeGreaterThan(0);
    const ends = await flow?.end();
    if (ends !== undefined) {
      expect(ends.peer.received).toBeGreaterThan(0);
      expect(ends.peer.receivedHash).toBe(ends.guest.sentHash);
      expect(ends.guest.receivedHash).toBe(ends.peer.sentHash);
    }
    expect(await mlx5.warnings(bed)).toEqual([]);
  });
});

describe('what goes wrong', () => {
  /** What happens at a phase of saving to the party that is named. */
  const kills: readonly [SavePhase, 'server' | 'QEMU'][] = [
    ['stop', 'server'],
    ['write', 'server'],
    ['write', 'QEMU'],
  ];
  it.each(kills)('at "%s", a %s that is killed: nothing hangs, and nothing is left', async (at, who) => {
    const bed = await bootNothing();
    const { vm, servers } = bed.current;
    const pids = [vm.pid, servers.get('dev0')?.pid ?? 0];
    const error = await rejectionOf(
      CompanionError,
      bed.save(place(), {
        onPhase: async (phase) => {
          if (phase !== at) return;
          await (who === 'QEMU' ? vm.kill() : servers.get('dev0')?.kill());
        },
      }),
    );
    expect(readdirSync(folder)).toEqual([]);
    if (who === 'QEMU') expect(error.message).toMatch('the QEMU is gone, and the guest with it');
    else expect(error.message).toMatch('device dev0 does not work any more');
    await bed.close();
    expect(pids.filter(alive)).toEqual([]);
  });

  it('a cancel, or a disk that is full, leaves the guest running, and it can be saved then', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 100);
    await startWorkload(bed);
    const cancel = new AbortController();
    const cancelled = bed.save(place(), {
      signal: cancel.signal,
      onPhase: (phase) => {
        if (phase === 'write') setTimeout(() => cancel.abort(), 20);
      },
    });
    expect((await rejectionOf(CompanionError, cancelled)).code).toBe('VC_CANCELLED');
    await expectWorkload(bed);
    if (process.getuid?.() === 0) {
      const small = place('small');
      execFileSync('mkdir', [small]);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'none', small]);
      try {
        const error = await rejectionOf(CompanionError, bed.save(join(small, 'vm')));
        expect(error.message).toMatch(/no space left on device/i);
        expect(error.hint).toMatch('room');
        expect(readdirSync(small)).toEqual([]);
      } finally {
        execFileSync('umount', [small]);
      }
      await expectWorkload(bed);
    }
    expect(readdirSync(folder).filter((name) => name !== 'small')).toEqual([]);
    await bed.save(place(), { resume: true });
    await expectChurn(bed, await churnCount(bed));
    expect(existsSync(join(place(), 'vm.json'))).toBe(true);
  });

  const parts: readonly [RestorePhase, 'server' | 'QEMU'][] = [
    ['load', 'QEMU'],
    ['resume', 'server'],
  ];
  it('parties that are killed while it is restored end that, and the next one gets the guest', async () => {
    const bed = await bootNothing();
    const source = bed.current;
    await bed.save(place());
    for (const [at, who] of parts) {
      const side = await bed.prepare();
      const restoring = restoreInto(bed, side, place(), async (phase) => {
        if (phase !== at) return;
        await (who === 'QEMU' ? side.vm.kill() : side.servers.get('dev0')?.kill());
      });
      await rejectionOf(CompanionError, restoring);
      // What was begun is never to be started by anyone.
      await side.vm.exited;
      await side.close();
    }
    const side = await bed.prepare();
    await restoreInto(bed, side, place());
    await source.close();
    expect(await status(bed)).toMatchObject({ status: 'running' });
  });
});
