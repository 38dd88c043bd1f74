/** A VM to a folder and back, between objects that play QEMU and the device servers. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeRestore, describeSave } from '../../../src/cli/saved.ts';
import { CompanionError } from '../../../src/errors.ts';
import { migrationState } from '../../../src/migration/state.ts';
import { checkFile, settle } from '../../../src/qemu/saved/files.ts';
import type {
  RestoreOptions,
  RestorePhase,
  SaveOptions,
  SavePhase,
  SaveReport,
} from '../../../src/qemu/saved/options.ts';
import { restoreVm } from '../../../src/qemu/saved/restore.ts';
import { saveVm } from '../../../src/qemu/saved/save.ts';
import { rejectionOf } from '../../thrown.ts';
import { FakeWorld, type PeerMethod, tableAddress, usualParameters } from './fake-world.ts';

let world: FakeWorld;
let folder: string;
beforeEach(async () => {
  world = new FakeWorld();
  await world.start();
  folder = join(world.folder, 'saved');
});
afterEach(() => world.stop());

function common(side: 'source' | 'destination') {
  const { timeouts = {}, connectDevice, [side]: end } = world.options();
  return {
    qmp: end.qmp,
    devices: world.devices.map(({ id, [side]: peer }) => ({ id, socket: peer.name })),
    folder,
    timeouts,
    ...(connectDevice === undefined ? {} : { connectDevice }),
  };
}

function save(more: Partial<SaveOptions> = {}): Promise<SaveReport> {
  return saveVm({ ...common('source'), ...more });
}

function restore(more: Partial<RestoreOptions> = {}) {
  return restoreVm({ ...common('destination'), ...more });
}

/** Where each of these stands in the journal, which has all of them. */
function order(...lines: string[]): number[] {
  const is = (line: string) => (each: string) => each === line || each.startsWith(`${line} `);
  const found = lines.map((line) => world.journal.findIndex(is(line)));
  expect(found).not.toContain(-1);
  return found;
}

function expectInOrder(...lines: string[]): void {
  const found = order(...lines);
  expect(found).toEqual([...found].sort((a, b) => a - b));
}

/** The guest goes on as if nothing had been tried, and there is no trace of it. */
function expectUndone(status = 'running'): void {
  expect(world.sourceStatus).toBe(status);
  for (const { source } of world.devices) {
    expect(source.current).toBe(migrationState.RUNNING);
    expect(source.held).toBe(false);
  }
  expect(readdirSync(world.folder).filter((name) => name.startsWith('saved'))).toEqual([]);
  expect(world.capabilities.every(({ state }) => !state)).toBe(true);
  expect(world.parameters).toEqual(usualParameters);
}

describe('saving a VM', () => {
  it('has everything stand still before anything is read, and says what there is', async () => {
    const report = await save();
    expectInOrder(
      'source QEMU: stop',
      'source.rest',
      'source.park on',
      'source.barrier',
      'source.hold on',
      'source.halt',
      'source QEMU: migrate',
      'source migrate completed',
    );
    expect(order('source.halt')[0]).toBeLessThan(order('source.read')[0] ?? 0);
    expect(report).toMatchObject({ ramBytes: 7, wasRunning: true, resumed: false });
    expect(report.devices).toEqual([{ id: 'dev0', model: 'fake', stateBytes: 300 }]);
    expect(readdirSync(folder).sort()).toEqual(['device0.state', 'ram', 'vm.json']);
    expect(readFileSync(join(folder, 'ram'), 'utf8')).toBe('the RAM');
    expect(describeSave(report)).toMatch(/saved to .*RAM 7 B, dev0 \(fake\) 300 B\nthe guest stands still/);
  });

  it('leaves the guest standing, its devices held, and the settings of its QEMU as they were', async () => {
    world.capabilities.push({ capability: 'multifd', state: true });
    await save();
    expect(world.sourceStatus).toBe('postmigrate');
    expect(world.source.held).toBe(true);
    expect(world.source.current).toBe(migrationState.STOP_COPY);
    expect(world.capabilities.filter(({ state }) => state)).toEqual([{ capability: 'multifd', state: true }]);
    expect(world.parameters).toEqual(usualParameters);
  });

  it('writes RAM as it is where its QEMU is set to migrate by TLS or compressed, and leaves that set', async () => {
    const set = { 'tls-creds': 'tls0', 'multifd-compression': 'zstd' };
    Object.assign(world.parameters, set);
    world.capabilities.push({ capability: 'mapped-ram', state: false });
    await save();
    expect(world.parameters).toEqual({ ...usualParameters, ...set });
  });

  it('has it go on if that was asked for', async () => {
    const report = await save({ resume: true });
    expect(report.resumed).toBe(true);
    expect(world.sourceStatus).toBe('running');
    expect(world.source).toMatchObject({ held: false, current: migrationState.RUNNING });
    expect(describeSave(report)).toMatch(/the guest goes on\n$/);
  });

  it('keeps a guest paused that was', async () => {
    world.setRunning(false);
    const report = await save({ resume: true });
    expect(report).toMatchObject({ wasRunning: false, resumed: false });
    expect(describeSave(report)).toMatch('the guest is paused, as it was');
    await restore();
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('borrows Bus Master for the MSI-X table, and gives it back', async () => {
    world.source.config.writeUInt16LE(2, 4);
    world.source.table.fill(7);
    await save();
    expect(world.source.config.readUInt16LE(4)).toBe(2);
    expectInOrder('source.halt', 'source QEMU: o /h 0xcfc 0x6', 'source QEMU: o /h 0xcfc 0x2');
    const text = readFileSync(join(folder, 'vm.json'), 'utf8');
    expect(text).toMatch(world.source.table.toString('base64'));
  });

  it('stops no device before all are at rest', async () => {
    const { source } = world.addDevice();
    source.restMs = 20;
    await save();
    expectInOrder('source2.rest', 'source.halt');
    expect(readdirSync(folder)).toContain('device1.state');
  });

  it('refuses a folder that is there, or has no place, before it looks at anything', async () => {
    writeFileSync(folder, '');
    expect((await rejectionOf(CompanionError, save())).message).toMatch('there is a');
    expect(
      (await rejectionOf(CompanionError, save({ folder: join(world.folder, 'no', 'where') }))).message,
    ).toMatch('there is no folder');
    expect(world.journal).toEqual([]);
  });

  it('writes RAM in one go, also where a migration would pause', async () => {
    const pauses = world.capabilities.find(({ capability }) => capability === 'pause-before-switchover');
    if (pauses !== undefined) pauses.state = true;
    await save();
    expect(pauses?.state).toBe(true);
  });

  it('is too late to be cancelled when it has been done', async () => {
    const cancel = new AbortController();
    const onPhase = async (phase: SavePhase): Promise<void> => {
      if (phase !== 'resume') return;
      cancel.abort();
      await new Promise(setImmediate);
    };
    expect(await save({ resume: true, signal: cancel.signal, onPhase })).toMatchObject({ resumed: true });
    expect(world.sourceStatus).toBe('running');
    expect(existsSync(join(folder, 'vm.json'))).toBe(true);
  });

  it.each<[string, () => void, string]>([
    ['QEMU can not migrate', () => world.blocked.push('a disk'), 'VC_BLOCKED'],
    ['a vIOMMU may translate', () => Object.assign(world, { iommu: 'intel-iommu' }), 'VC_VIOMMU'],
    [
      'a device is stopped',
      () => Object.assign(world.source, { current: migrationState.STOP }),
      'VC_DEVICE_STATE',
    ],
    ['a server is too old', () => Object.assign(world.source, { protocol: 1 }), 'VC_PROTOCOL'],
    ['a server has no QEMU', () => Object.assign(world.source, { connected: false }), 'VC_NOT_CONNECTED'],
  ])('is refused where %s, with nothing touched', async (_why, spoil, code) => {
    world.source.readErrno = 14;
    spoil();
    expect((await rejectionOf(CompanionError, save())).code).toBe(code);
    expect(world.journal).not.toContain('source QEMU: stop');
    expect(readdirSync(world.folder)).not.toContain('saved');
  });

  it('is refused where the sockets of two devices are mixed up', async () => {
    world.addDevice().source.config.writeUInt32LE(0xfd00_0000, 0x10);
    const [first, second] = common('source').devices;
    const devices = [
      { id: 'dev0', socket: second?.socket ?? '' },
      { id: 'dev1', socket: first?.socket ?? '' },
    ];
    expect((await rejectionOf(CompanionError, save({ devices }))).message).toMatch(
      'is not that of device dev',
    );
    expect(world.journal).not.toContain('source QEMU: stop');
  });

  it('refuses a device that is not named', async () => {
    world.addDevice();
    const [first] = common('source').devices;
    const error = await rejectionOf(CompanionError, save({ devices: first === undefined ? [] : [first] }));
    expect(error.message).toMatch('not to be saved: dev1');
    expectUndone();
  });

  describe('that fails', () => {
    const phases: readonly SavePhase[] = ['check', 'stop', 'rest', 'write'];
    it.each(phases)('by a cancel at "%s" is undone', async (phase) => {
      const cancel = new AbortController();
      const onPhase = (at: SavePhase): void => {
        if (at === phase) cancel.abort();
      };
      const error = await rejectionOf(CompanionError, save({ signal: cancel.signal, onPhase }));
      expect(error.code).toBe('VC_CANCELLED');
      expectUndone();
    });

    it('by a cancel while RAM is written is undone', async () => {
      world.fileMs = 60_000;
      const cancel = new AbortController();
      const saving = rejectionOf(CompanionError, save({ signal: cancel.signal }));
      await expect.poll(() => world.journal).toContain('source QEMU: migrate');
      cancel.abort();
      expect((await saving).code).toBe('VC_CANCELLED');
      expectUndone();
    });

    const calls: readonly PeerMethod[] = ['info', 'rest', 'halt', 'read'];
    it.each(calls)('by a server that refuses "%s" is undone', async (method) => {
      world.source.failing = { method, after: 0 };
      expect((await rejectionOf(CompanionError, save())).message).toMatch(`source refuses ${method}`);
      world.source.failing = undefined;
      expectUndone();
    });

    const commands = ['query-status', 'query-pci', 'migrate-set-capabilities', 'stop', 'migrate'] as const;
    it.each(commands)('by a QEMU that refuses "%s" is undone', async (command) => {
      world.refused.add(`source ${command}`);
      const error = await rejectionOf(CompanionError, save());
      expect(error.message).toMatch(`source refuses ${command}`);
      if (command === 'migrate') expect(error.hint).toMatch('may the user that QEMU runs as write there');
      expectUndone();
    });

    it('by a QEMU that could not write is undone', async () => {
      world.fileFails = true;
      const error = await rejectionOf(CompanionError, save());
      expect(error).toMatchObject({ code: 'VC_SAVE', hint: expect.stringMatching('is there room') });
      expectUndone();
    });

    it('by RAM of which nothing is written any more is undone', async () => {
      world.fileMs = 60_000;
      const error = await rejectionOf(
        CompanionError,
        save({ timeouts: { ...common('source').timeouts, final: 50 } }),
      );
      expect(error.message).toMatch(/RAM to .*: nothing within 50 ms/);
      expectUndone();
    });

    it('by a guest that suspends itself leaves it suspended: QEMU would abort when it is to go on from its last page', async () => {
      const onPhase = async (phase: SavePhase): Promise<void> => {
        if (phase === 'stop') world.suspend();
      };
      const error = await rejectionOf(CompanionError, save({ onPhase, resume: true }));
      expect(error).toMatchObject({
        code: 'VC_GUEST_SUSPENDED',
        hint: expect.stringMatching('system_wakeup'),
      });
      expect(world.journal).not.toContain('source QEMU: migrate');
      expectUndone('suspended');
    });

    it('while Bus Master is borrowed gives it back', async () => {
      world.source.config.writeUInt16LE(2, 4);
      world.source.failing = { method: 'barrier', after: 1 };
      expect((await rejectionOf(CompanionError, save())).message).toMatch('source refuses barrier');
      expect(world.source.config.readUInt16LE(4)).toBe(2);
      expectUndone();
    });

    it('keeps a guest paused that was', async () => {
      world.setRunning(false);
      world.fileMs = 60_000;
      world.source.failing = { method: 'read', after: 0 };
      await rejectionOf(CompanionError, save());
      expectUndone('paused');
    });

    it('by a server that is gone says that its device does not work any more', async () => {
      const gone = new CompanionError('VC_TEST', 'its process has ended');
      const onPhase = async (phase: SavePhase): Promise<void> => {
        if (phase !== 'rest') return;
        world.source.failing = { method: 'setState', after: 0 };
        world.source.die(gone);
        await new Promise(setImmediate);
      };
      const error = await rejectionOf(CompanionError, save({ onPhase }));
      expect(error.message).toMatch(
        /the server of device dev0 is gone \(its process has ended\); .*device dev0 does not work/,
      );
      expect(world.sourceStatus).toBe('running');
    });

    it('tells what does not go on', async () => {
      world.source.failing = { method: 'read', after: 0 };
      const error = await rejectionOf(
        CompanionError,
        save({
          onPhase: (phase) => {
            if (phase === 'write') world.source.failing = { method: 'setState', after: 0 };
            if (phase === 'write') world.refused.add('source migrate');
          },
        }),
      );
      expect(error.message).toMatch(/source refuses migrate; device dev0: state RUNNING/);
      expect(error.hint).toMatch('vfio-companion recover');
    });
  });
});

describe('restoring a VM', () => {
  it('loads RAM and devices, tells QEMU their registers, and starts it last', async () => {
    world.source.table.fill(9);
    await save();
    world.destination.takesWrites = true;
    const report = await restore();
    expectInOrder(
      'destination QEMU: stop',
      'destination.hold on',
      'destination QEMU: migrate-incoming',
      'destination migrate-incoming completed',
      'destination.dma',
      'destination QEMU: cont',
      'destination.hold off',
    );
    expectInOrder('destination.setState 4', 'destination.write', 'destination.setState 1', 'destination.dma');
    expectInOrder('destination QEMU: cont', 'destination.fireVectors', 'destination.park off');
    expect(world.destination.config.readUInt32LE(0x10)).toBe(tableAddress);
    expect(world.destination.config.readUInt16LE(4)).toBe(6);
    expect(world.destination.table).toEqual(world.source.table);
    expect(world.destination.current).toBe(migrationState.RUNNING);
    expect(report).toMatchObject({ running: true, devices: [{ id: 'dev0', stateBytes: 300 }] });
    expect(describeRestore(report)).toMatch(/restored from .*; the guest runs\n$/);
    // To what it takes to load, and back.
    const settings = world.journal.filter((line) => line === 'destination QEMU: migrate-set-capabilities');
    expect(settings).toHaveLength(2);
  });

  it('compares registers and state with what was saved, if that was asked for, before the guest runs', async () => {
    await save();
    const report = await restore({ verify: true });
    expect(report.devices).toMatchObject([{ configEqual: true, msixTableEqual: true, stateEqual: true }]);
    expect(describeRestore(report)).toMatch(
      'dev0: configuration, MSI-X table, state equal to what was saved\n',
    );
    expectInOrder('destination.setState 3', 'destination.read', 'destination QEMU: cont');
    expect(world.destination.current).toBe(migrationState.RUNNING);
  });

  it.each<[string, () => void, string]>([
    ['a register', () => world.destination.shown.writeUInt8(5, 0x3c), 'VC_CONFIG_DIFFERS'],
    ['an MSI-X entry', () => world.destination.table.fill(1), 'VC_CONFIG_DIFFERS'],
    ['a state', () => world.destination.endEarly(), 'VC_STATE_DIFFERS'],
  ])('ends the QEMU where %s is another', async (_what, spoil, code) => {
    await save();
    spoil();
    expect((await rejectionOf(CompanionError, restore({ verify: true }))).code).toBe(code);
    expect(world.journal).toContain('destination QEMU: quit');
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('warns of what can not be compared', async () => {
    world.source.config.writeUInt16LE(2, 4);
    await save();
    world.destination.stateVersion = 2;
    const report = await restore({ verify: true });
    expect(report.devices).toMatchObject([{ configEqual: null, msixTableEqual: null, stateEqual: null }]);
    expect(describeRestore(report)).toMatch(
      /warning: device dev0: the guest has.*\nwarning: .*state versions 1 and 2/,
    );
  });

  it('leaves it paused if that was asked for', async () => {
    await save();
    const report = await restore({ paused: true });
    expect(world.journal).not.toContain('destination QEMU: cont');
    expect(world.destination.held).toBe(false);
    expect(describeRestore(report)).toMatch('the guest is paused');
  });

  describe('is refused, and leaves the QEMU waiting,', () => {
    async function expectRefusal(code: string, message: RegExp): Promise<void> {
      const error = await rejectionOf(CompanionError, restore());
      expect(error.code).toBe(code);
      expect(error.message).toMatch(message);
      expect(world.journal).not.toContain('destination QEMU: migrate-incoming');
      expect(world.journal).not.toContain('destination QEMU: quit');
      expect(world.destinationStatus).toBe('inmigrate');
    }

    it('where nothing was saved', async () => {
      await expectRefusal('VC_SAVED_VM', /there is no saved VM in .*ENOENT/);
    });

    it('into another machine', async () => {
      await save();
      world.machines.destination = 'pc-i440fx-11.1-machine';
      await expectRefusal(
        'VC_MACHINES_DIFFER',
        /the saved VM is a pc-q35-11.1 and this one a pc-i440fx-11.1/,
      );
    });

    it('with a server that is older than the state', async () => {
      world.source.stateVersion = 3;
      await save();
      await expectRefusal('VC_STATE_REFUSED', /state version 3/);
    });

    it('with a server that serves a guest already', async () => {
      await save();
      world.destination.config.writeUInt16LE(6, 4);
      await expectRefusal('VC_DESTINATION_STATE', /serves a guest that has set the device up/);
    });

    it('with a server that has no QEMU', async () => {
      await save();
      world.destination.connected = false;
      await expectRefusal('VC_NOT_CONNECTED', /no QEMU is connected to the destination server/);
    });

    it('where a device is too many', async () => {
      await save();
      world.addDevice();
      await expectRefusal('VC_DEVICES', /the saved VM has no device dev1/);
    });

    it('where a device is missing', async () => {
      world.addDevice();
      await save();
      world.devices.pop();
      await expectRefusal('VC_DEVICES', /the saved VM has a device dev1/);
    });

    it('in another slot', async () => {
      await save();
      const [device] = world.devices;
      if (device !== undefined) world.devices[0] = { ...device, devfn: 0x30 };
      await expectRefusal('VC_MACHINES_DIFFER', /sits in slot 5.0 at the source and 6.0/);
    });

    it.each(['ram', 'device0.state'])('of a %s that was cut off', async (name) => {
      await save();
      truncateSync(join(folder, name), 5);
      await expectRefusal('VC_SAVED_VM', /has 5 bytes, and had/);
    });

    it.each(['ram', 'device0.state'])('where a copy has no %s', async (name) => {
      await save();
      rmSync(join(folder, name));
      await expectRefusal('VC_SAVED_VM', new RegExp(`${name} can't be read: ENOENT$`));
      expect((await rejectionOf(CompanionError, restore())).hint).toBe('was the folder copied whole?');
    });

    it.each(['vm.json', 'ram', 'device0.state'])(
      'of a %s that is a pipe, without waiting for its writer',
      async (name) => {
        await save();
        rmSync(join(folder, name));
        execFileSync('mkfifo', [join(folder, name)]);
        await expectRefusal('VC_SAVED_VM', new RegExp(`${name} is no file$`));
      },
    );

    it.each(['ram', 'device0.state'])('of a %s in which a bit has changed', async (name) => {
      await save();
      const bytes = readFileSync(join(folder, name));
      bytes.writeUInt8(bytes.readUInt8(3) ^ 1, 3);
      writeFileSync(join(folder, name), bytes);
      await expectRefusal('VC_SAVED_VM', /its sum differs/);
    });

    it('from a newer vfio-companion', async () => {
      await save();
      const path = join(folder, 'vm.json');
      writeFileSync(path, readFileSync(path, 'utf8').replace('"version": 1', '"version": 2'));
      await expectRefusal('VC_SAVED_VM', /a saved VM of version 2/);
    });

    it.each(['', '{', '[]', '{"format":"another"}'])('by a manifest that is %j', async (text) => {
      await save();
      writeFileSync(join(folder, 'vm.json'), text);
      await expectRefusal('VC_SAVED_VM', /there is no saved VM/);
    });

    it('whatever is wrong in its manifest', async () => {
      await save();
      const path = join(folder, 'vm.json');
      const text = readFileSync(path, 'utf8');
      const optional = /^(ecamBase|msix|msixTable|bars|loadsVersions|stateFormat|devices)$/;
      let tried = 0;
      for (const bad of [undefined, -2, 1.5, 2 ** 60, {}]) {
        for (const spoil of spoilers(JSON.parse(text), bad)) {
          const { name, value } = spoil;
          if (optional.test(name) || name === 'format' || name === 'version') continue;
          writeFileSync(path, JSON.stringify(value));
          const error = await rejectionOf(CompanionError, restore());
          expect(error.code, `${name}: ${String(bad)}`).toMatch(/^VC_(SAVED_VM|DEVICES|MACHINES_DIFFER)$/);
          tried += 1;
        }
      }
      expect(tried).toBeGreaterThan(100);
      expect(world.destinationStatus).toBe('inmigrate');
      expect(world.journal).not.toContain('destination QEMU: migrate-incoming');
    });
  });

  const phases: readonly RestorePhase[] = ['load', 'replay', 'resume'];
  it.each(phases)('that is cancelled at "%s" ends the QEMU, and what was saved stays', async (phase) => {
    await save();
    const cancel = new AbortController();
    const onPhase = (at: RestorePhase): void => {
      if (at === phase) cancel.abort();
    };
    expect((await rejectionOf(CompanionError, restore({ signal: cancel.signal, onPhase }))).code).toBe(
      'VC_CANCELLED',
    );
    expect(world.journal).toContain('destination QEMU: quit');
    expect(world.journal).not.toContain('destination QEMU: cont');
    expect(existsSync(join(folder, 'vm.json'))).toBe(true);
  });

  const calls: readonly PeerMethod[] = ['write', 'setState', 'dma', 'hold'];
  it('tells of a QEMU that may not open the file that its user has to be able to read it', async () => {
    await save();
    world.refused.add('destination migrate-incoming');
    expect(await rejectionOf(CompanionError, restore())).toMatchObject({
      code: 'VC_RESTORE',
      message: expect.stringMatching('destination refuses migrate-incoming'),
      hint: expect.stringMatching('may the user that QEMU runs as read it'),
    });
  });

  it.each(calls)('with a server that refuses "%s" ends the QEMU', async (method) => {
    await save();
    world.destination.failing = { method, after: 0 };
    expect((await rejectionOf(CompanionError, restore())).message).toMatch(`destination refuses ${method}`);
    expect(world.journal).toContain('destination QEMU: quit');
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('with a server that is gone before the guest runs ends the QEMU', async () => {
    await save();
    const onPhase = async (phase: RestorePhase): Promise<void> => {
      if (phase !== 'resume') return;
      world.destination.die(new CompanionError('VC_TEST', 'its process has ended'));
      await new Promise(setImmediate);
    };
    expect(await rejectionOf(CompanionError, restore({ onPhase }))).toMatchObject({ code: 'VC_PEER_LOST' });
    expect(world.journal).toContain('destination QEMU: quit');
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('by a QEMU that could not load ends it', async () => {
    await save();
    world.fileFails = true;
    expect(await rejectionOf(CompanionError, restore())).toMatchObject({ code: 'VC_RESTORE' });
    expect(world.journal).toContain('destination QEMU: quit');
  });

  it('says so where a device could not be let go', async () => {
    await save();
    world.destination.failing = { method: 'fireVectors', after: 0 };
    expect(await rejectionOf(CompanionError, restore())).toMatchObject({ code: 'VC_RELEASE' });
    expect(world.journal).not.toContain('destination QEMU: quit');
    expect(world.destinationStatus).toBe('running');
  });
});

describe('the sum of a file', () => {
  const mebibyte = 1024 * 1024;
  const data = Buffer.alloc(mebibyte, 5);

  /** Three mebibytes with `data` in those that are named; holes elsewhere, or zeros. */
  function write(name: string, places: readonly number[], holes: boolean): string {
    const path = join(world.folder, name);
    const file = openSync(path, 'w');
    ftruncateSync(file, 3 * mebibyte);
    for (const place of [0, 1, 2]) {
      if (places.includes(place)) writeSync(file, data, 0, mebibyte, place * mebibyte);
      else if (!holes) writeSync(file, Buffer.alloc(mebibyte), 0, mebibyte, place * mebibyte);
    }
    closeSync(file);
    return path;
  }

  it('is the same with holes and without, and another when something is moved', async () => {
    const sum = await settle(write('holes', [1], true));
    expect(sum.bytes).toBe(3 * mebibyte);
    expect(await settle(write('zeros', [1], false))).toEqual(sum);
    await checkFile(write('copy', [1], false), sum);
    for (const places of [[0], [2], [0, 1], []])
      expect(
        (await rejectionOf(CompanionError, checkFile(write('moved', places, true), sum))).message,
      ).toMatch('its sum differs');
  });
});

/** The manifest with one thing after the other replaced. */
function* spoilers(whole: unknown, bad: unknown): Generator<{ name: string; value: unknown }> {
  const places: [Record<string, unknown>, string][] = [];
  const walk = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    for (const [name, inner] of Object.entries(value)) {
      places.push([value as Record<string, unknown>, name]);
      walk(inner);
    }
  };
  walk(whole);
  for (const [parent, name] of places) {
    const good = parent[name];
    parent[name] = bad;
    yield { name, value: whole };
    parent[name] = good;
  }
}
