import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import type { DeviceModel } from '../../../src/device/index.ts';
import { silentLogger } from '../../../src/log.ts';
import { createReactor, type Reactor } from '../../../src/loop/index.ts';
import { DeviceRuntime, type RuntimeSettings } from '../../../src/runtime/device-runtime.ts';

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

let closed = 0;
const model: DeviceModel = {
  name: 'mapped',
  description: 'has memory that clients map',
  stateVersion: 1,
  options: { fails: { type: 'boolean', default: false, description: 'does not come to life' } },
  pci: () => ({
    vendorId: 0x1b36,
    deviceId: 0x11e9,
    classCode: 0xff0000,
    bars: { 0: { size: 0x1000, kind: 'memory32', mappable: [{ offset: 0, size: 0x1000 }] } },
  }),
  create: (_host, { fails }) => {
    if (fails) throw new Error('no such card');
    return {
      bars: {},
      reset: () => {},
      close: () => {
        closed += 1;
      },
    };
  },
};

describe('a device that can not be made', () => {
  let reactor: Reactor;
  afterEach(() => reactor.close());

  const make = (settings: Partial<RuntimeSettings>) => (): void => {
    new DeviceRuntime(model, { reactor, log: silentLogger, ...settings });
  };

  it.each([
    ['its model fails', { options: { fails: true } }, 'no such card', 0],
    ['its model lacks what was asked for', { dirtyScope: 'pinned' }, 'does not tell', 1],
  ] as const)('leaves nothing behind when %s', (_why, settings, message, models) => {
    reactor = createReactor();
    closed = 0;
    const before = openDescriptors();
    expect(make(settings)).toThrow(message);
    expect(closed).toBe(models);
    expect(openDescriptors()).toBe(before);
  });
});
