/** When sessions begin and end, and what a failure on the way leaves behind. */
import { describe, expect, it } from 'vitest';
import { createDirtyLog } from '../../../src/dma/dirty-scopes.ts';
import { type MigrationHooks, migrationState as s } from '../../../src/migration/index.ts';
import { StreamEncoder } from '../../../src/migration/stream/encoder.ts';
import { cut } from './chunks.ts';
import { FakeDevice, fakeMigration, readAll } from './fake-device.ts';

const page = 4096;
const endChunk = 6;

/** Hooks of which `failing` names the one that throws. */
function hooksOf(seen: string[], device: FakeDevice, failing: { now: string }): Required<MigrationHooks> {
  const hook = (name: string) => (): void => {
    seen.push(`${name}, ${device.sessions} sessions`);
    if (failing.now === name) throw new Error(`no ${name}`);
  };
  return {
    save: hook('save'),
    quiesce: hook('quiesce'),
    stop: hook('stop'),
    resume: hook('resume'),
    failed: hook('failed'),
  };
}

function made(options?: ConstructorParameters<typeof FakeDevice>[0]) {
  const device = new FakeDevice(options);
  const seen: string[] = [];
  const failing = { now: '' };
  const dirtyLog = createDirtyLog({ scope: 'precise', memory: { regions: () => [] }, attach: () => {} });
  const { controller } = fakeMigration(device, { hooks: hooksOf(seen, device, failing), dirtyLog });
  return { device, seen, failing, controller, dirtyLog };
}

describe('a save', () => {
  it.each([
    ['RUNNING', s.RUNNING, s.PRE_COPY],
    ['RUNNING_P2P', s.RUNNING_P2P, s.PRE_COPY_P2P],
    ['STOP', s.STOP, s.STOP_COPY],
  ] as const)(
    'is announced before its session is opened, and does not begin when that fails: in %s',
    (_name, from, to) => {
      const { device, seen, failing, controller } = made();
      controller.setState(from);
      seen.length = 0;
      failing.now = 'save';
      expect(() => controller.setState(to)).toThrow('no save');
      expect([controller.state, device.sessions, seen]).toEqual([from, 0, ['save, 0 sessions']]);
      expect(() => controller.read(Buffer.alloc(1))).toThrow('no state to read');
      failing.now = '';
      controller.setState(to);
      expect(readAll(controller).length).toBeGreaterThan(device.memory.length);
    },
  );

  it('goes on as one of a running device when that does not stop', () => {
    const { device, failing, controller } = made();
    controller.setState(s.PRE_COPY_P2P);
    const head = Buffer.alloc(100);
    controller.read(head);
    failing.now = 'stop';
    expect(() => controller.setState(s.STOP_COPY)).toThrow('no stop');
    const before = Buffer.concat([head, readAll(controller)]);
    expect(cut(before).map(({ type }) => type)).not.toContain(endChunk);
    device.poke(3, 3);
    expect(controller.precopyInfo()).toEqual({ initialBytes: 0, dirtyBytes: page, flags: 0 });
    failing.now = '';
    controller.setState(s.STOP_COPY);
    expect(cut(Buffer.concat([before, readAll(controller)])).at(-1)?.type).toBe(endChunk);
  });

  it('that is left in the middle ends what makes its records', () => {
    const { device, controller } = made({ preCopy: false });
    let ended = 0;
    const save = device.save.bind(device);
    device.save = function* () {
      try {
        yield* save();
      } finally {
        ended++;
      }
    };
    controller.setState(s.STOP_COPY);
    controller.read(Buffer.alloc(500));
    expect(ended).toBe(0);
    controller.setState(s.STOP);
    expect(ended).toBe(1);
  });

  it('has none of the framework’s names from a device, while it runs or after', () => {
    const { device, controller } = made();
    const open = device.preCopy ?? expect.fail('no PRE_COPY');
    const record = { section: '@pci', value: { command: 0 } };
    device.preCopy = () => ({ ...open(), initialBytes: () => 1, next: () => record });
    controller.setState(s.PRE_COPY);
    expect(() => controller.read(Buffer.alloc(page))).toThrow('marks the framework');
    controller.setState(s.RUNNING);
    device.preCopy = () => ({ ...open(), next: () => undefined, final: () => [record] });
    controller.setState(s.PRE_COPY);
    readAll(controller);
    controller.setState(s.STOP_COPY);
    expect(() => controller.read(Buffer.alloc(page))).toThrow('marks the framework');
  });
});

describe('a reset', () => {
  it('by the guest goes on with the save in PRE_COPY_P2P, too, all of it initial', () => {
    const { device, controller } = made();
    controller.setState(s.PRE_COPY);
    readAll(controller);
    device.poke(0, 1);
    controller.setState(s.PRE_COPY_P2P);
    controller.read(Buffer.alloc(100));
    controller.deviceWasReset();
    expect(controller.state).toBe(s.PRE_COPY_P2P);
    expect(controller.precopyInfo()).toMatchObject({ dirtyBytes: 0, flags: 1 });
  });

  it.each([
    ['RUNNING_P2P', s.RUNNING_P2P, ['resume']],
    ['PRE_COPY', s.PRE_COPY, []],
    ['PRE_COPY_P2P', s.PRE_COPY_P2P, ['resume']],
    ['STOP_COPY', s.STOP_COPY, ['resume']],
    ['RESUMING', s.RESUMING, ['resume']],
  ] as const)('in %s takes back what had been done to the device, and no more', (_name, state, hooks) => {
    const { device, seen, controller } = made();
    controller.setState(state);
    seen.length = 0;
    controller.reset();
    expect([controller.state, device.sessions]).toEqual([s.RUNNING, 0]);
    expect(seen).toEqual(hooks.map((name) => `${name}, 0 sessions`));
  });

  it('ends in RUNNING whatever fails on the way', () => {
    const { device, seen, failing, controller } = made();
    const open = device.preCopy ?? expect.fail('no PRE_COPY');
    device.preCopy = () => ({
      ...open(),
      end: () => {
        throw new Error('no end');
      },
    });
    controller.setState(s.PRE_COPY);
    controller.setState(s.STOP_COPY);
    seen.length = 0;
    failing.now = 'resume';
    controller.reset();
    expect(controller.state).toBe(s.RUNNING);
    expect(seen.map((what) => what.split(',')[0])).toEqual(['resume']);
  });
});

it('a server that closes ends the session and the log', () => {
  const { device, controller, dirtyLog } = made();
  controller.startDmaLogging(page, []);
  controller.setState(s.PRE_COPY);
  expect([device.sessions, dirtyLog.active]).toEqual([1, true]);
  controller.close();
  expect([device.sessions, dirtyLog.active]).toEqual([0, false]);
});

describe('a load', () => {
  const { geometry } = new FakeDevice();
  const header = {
    model: 'fake',
    stateVersion: 2,
    geometry,
    requires: ['restart'],
    frameworkVersion: 1,
    pageSize: page,
  };

  function stream(...puts: readonly ((encoder: StreamEncoder) => void)[]): Buffer {
    const encoder = new StreamEncoder(header);
    const parts: Buffer[] = [];
    for (const put of [() => {}, ...puts, () => encoder.putEnd()]) {
      put(encoder);
      const target = Buffer.alloc(65536);
      parts.push(target.subarray(0, encoder.take(target, 0)));
    }
    return Buffer.concat(parts);
  }
  const pci = (command: number) => (encoder: StreamEncoder) => encoder.putValue('@pci', { command });
  const restart = (encoder: StreamEncoder) => encoder.putRestart();
  const load = (bytes: Buffer, more: Parameters<typeof fakeMigration>[1] = {}) => {
    const target = fakeMigration(new FakeDevice(), more);
    target.controller.setState(s.RESUMING);
    target.controller.write(bytes);
    target.controller.setState(s.STOP);
    return target.pci();
  };

  it('forgets sections of the framework at a restart, and takes none twice without', () => {
    expect(load(stream(pci(1), restart, pci(2)))).toEqual({ command: 2 });
    expect(() => load(stream(pci(1), pci(2)))).toThrow('came twice');
    expect(() => load(stream(pci(1), restart))).toThrow('no section "pci"');
  });

  it('takes sections of the framework as values only, and only those it knows', () => {
    const bulk = (encoder: StreamEncoder) => encoder.putBulk('@pci', 0, Buffer.alloc(8));
    const other = (encoder: StreamEncoder) => encoder.putValue('@other', {});
    expect(() => load(stream(bulk))).toThrow("can't be bulk");
    expect(() => load(stream(pci(1), other))).toThrow('not known here');
  });

  it('does not do without a section', () => {
    const seen: unknown[] = [];
    const section = { save: () => ({}), load: (value: unknown) => void seen.push(value) };
    const framework = (...sections: string[]) => sections.map((name) => ({ ...section, section: name }));
    load(stream(pci(5)), { framework: framework('pci') });
    expect(seen).toEqual([{ command: 5 }]);
    expect(() => load(stream(pci(5)), { framework: framework('pci', 'later') })).toThrow(
      'no section "later"',
    );
  });
});
