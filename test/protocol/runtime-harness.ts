import type { DeviceModel, OptionTable } from '../../src/device/index.ts';
import { Stage } from '../../src/rehearsal/stage.ts';
import type { RuntimeSettings } from '../../src/runtime/device-runtime.ts';
import { nativeServer, type ServerUnderTest } from './harness.ts';

/** What a test's own model says that it is, where that does not matter. */
export const somePciFunction = { vendorId: 0x1b36, deviceId: 0x11e9, classCode: 0xff0000 } as const;

/** A real model behind a real server, with clients for both sockets, all on the test's own thread. */
export class Bench extends Stage {
  /** @param under what serves the device socket; the migration socket is always ours */
  constructor(
    model: DeviceModel<OptionTable>,
    settings: Partial<RuntimeSettings> = {},
    under: ServerUnderTest = nativeServer,
  ) {
    super(model, settings, (options) => under.create({ ...options, role: 'device' }));
  }
}
