/** Starting, talking to and migrating QEMUs; for tests and tools. See docs/migration.md. */
export type { DevicePeer, PeerInfo } from './device-peer.ts';
export { DeadlineError, LaunchError, QmpConnectionError, QmpError } from './errors.ts';
export { GuestAgent, type GuestResult } from './guest-agent.ts';
export { type LaunchOptions, launchVm, type Vm } from './launch.ts';
export { ManagedProcess, type ProcessExit } from './managed-process.ts';
export { Qmp, type QmpAddress, type QmpEvent, type QmpVersion } from './qmp.ts';
export { type DifferingPage, pidOfUnixSocket, type RamProof, ramOf, verifyRam } from './ram-proof.ts';
export type {
  RestoreOptions,
  RestorePhase,
  RestoreReport,
  SaveOptions,
  SavePhase,
  SaveReport,
  SideDevice,
} from './saved/options.ts';
export { restoreVm } from './saved/restore.ts';
export { saveVm } from './saved/save.ts';
export { type ServedDevice, type ServedDeviceOptions, serveDevice } from './serve-device.ts';
export { migrate } from './switchover/migrate.ts';
export {
  type MigratedDevice,
  type MigrateOptions,
  type MigrationEnd,
  MigrationFailed,
} from './switchover/options.ts';
export { type RecoverOptions, type Recovery, recover } from './switchover/recover.ts';
export {
  type Side,
  Testbed,
  type TestbedDevice,
  type TestbedMigration,
  type TestbedOptions,
  type TestbedSave,
} from './testbed.ts';
export type { VfioUserDevice, VmDescription } from './vm-arguments.ts';
