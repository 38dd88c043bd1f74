/** The migration protocol v2 of a served device: what the runtime uses of this room. */
export { MigrationController, type MigrationHooks, type MigrationOptions } from './controller.ts';
export { LoadSession } from './load-session.ts';
export { type PrecopyInfo, SaveSession } from './save-session.ts';
export { type FrameworkSection, frameworkVersion, type StateModel, type StateSource } from './sections.ts';
export {
  type FeatureSet,
  type MigrationState,
  migrationFlags,
  migrationState,
  precopyInfoFlags,
  stateName,
} from './state.ts';
export { StateSummary } from './summary.ts';
