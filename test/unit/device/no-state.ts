import type { DeviceMigration } from '../../../src/device/migration.ts';

/** The migration of a device without state, for tests of what is around it. */
export const noState: DeviceMigration = {
  p2p: true,
  geometry: {},
  estimate: () => 0,
  save: () => [],
  beginLoad: () => {},
  load: () => {},
  endLoad: () => {},
};
