/** What a server does before it serves: a migration among devices that nobody sees. */
import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { hello } from '../../device-models/hello/index.ts';
import { modelNames, shippedModel } from '../../device-models/index.ts';
import type { DeviceModel } from '../../src/device/model.ts';
import { silentLogger } from '../../src/log.ts';
import { closeFd } from '../../src/posix/index.ts';
import { rehearseMigration } from '../../src/rehearsal/rehearse-migration.ts';
import { Stage } from '../../src/rehearsal/stage.ts';

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

describe('rehearseMigration', () => {
  it.each(modelNames)('moves the state of %s', async (name) => {
    const model = await shippedModel(name);
    if (model === undefined) throw new Error('no model');
    expect(rehearseMigration(model, silentLogger)).toBe(true);
  });

  it('lets a model pass that can not be created, and closes what it made', () => {
    let open = 0;
    const fragile: DeviceModel = {
      ...(hello as unknown as DeviceModel),
      create(host, options) {
        if (open === 1) throw new Error('only once');
        open += 1;
        const device = (hello as unknown as DeviceModel).create(host, options);
        return {
          ...device,
          close: () => {
            open -= 1;
          },
        };
      },
    };
    expect(rehearseMigration(fragile, silentLogger)).toBe(false);
    expect(open).toBe(0);
  });
});

describe('a stage', () => {
  const broken: DeviceModel = {
    ...(hello as unknown as DeviceModel),
    create() {
      throw new Error('no such card');
    },
  };
  const cases: readonly [string, () => Stage, string][] = [
    ['its model fails', () => new Stage(broken), 'no such card'],
    [
      'its server can not be made',
      () =>
        new Stage(hello as unknown as DeviceModel, {}, () => {
          throw new Error('no such transport');
        }),
      'no such transport',
    ],
    [
      'its server takes no client',
      () =>
        new Stage(hello as unknown as DeviceModel, {}, () => ({
          adopt: closeFd,
          close: () => {},
        })),
      'the peer disconnected',
    ],
  ];

  it.each(cases)('leaves no descriptor behind when %s', (_what, make, message) => {
    const before = openDescriptors();
    expect(make).toThrow(message);
    expect(openDescriptors()).toBe(before);
  });

  it('leaves none behind when it is closed, its guest memory included', () => {
    const before = openDescriptors();
    const stage = new Stage(hello as unknown as DeviceModel);
    stage.guestMemory(0, 65536).fill(1);
    expect(openDescriptors()).toBeGreaterThan(before + 4);
    stage.close();
    expect(openDescriptors()).toBe(before);
  });
});
