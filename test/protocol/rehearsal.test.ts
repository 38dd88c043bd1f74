/** What a server does before it serves: a migration among devices that nobody sees. */
import { describe, expect, it } from 'vitest';
import { hello } from '../../device-models/hello/index.ts';
import { modelNames, shippedModel } from '../../device-models/index.ts';
import type { DeviceModel } from '../../src/device/model.ts';
import { silentLogger } from '../../src/log.ts';
import { rehearseMigration } from '../../src/rehearsal/rehearse-migration.ts';

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
