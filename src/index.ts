/**
 * The library: start VMs with vfio-user devices, migrate them, prove it; serve device models of your own.
 * `vfio-companion/device` is what a model imports, `vfio-companion/client` the vfio-user client.
 */

export { createLogger } from './log.ts';
export { createReactor } from './loop/index.ts';
export * from './qemu/index.ts';
export { htmlReport } from './report/html.ts';
export { summary } from './report/summary.ts';
export type { MigrationReport } from './report/types.ts';
export { DeviceRuntime, type RuntimeSettings } from './runtime/device-runtime.ts';
export { isModelPath, loadModel, ModelModuleError } from './runtime/model-module.ts';
export { orchestratorPort } from './runtime/orchestrator-port.ts';
export { NativeServer, type NativeServerOptions } from './transport/native/index.ts';
