/** The migration protocol v2 of a served device: what the runtime uses of this room. */
export { MigrationController, type MigrationHooks, type MigrationOptions } from './controller.ts';
export { frameworkVersion, type StateModel } from './sections.ts';
export { migrationState, stateName } from './state.ts';
