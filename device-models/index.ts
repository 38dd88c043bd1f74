import type { DeviceModel } from '../src/device/index.ts';
import type { OpenPort } from './mlx5/index.ts';
import { noPort } from './mlx5/no-port.ts';

/** Loaded one at a time: a server starts with the modules of its own model only. */
const shipped: Readonly<Record<string, (openPort: OpenPort) => Promise<unknown>>> = {
  hello: async () => (await import('./hello/index.ts')).hello,
  ram: async () => (await import('./ram/index.ts')).ram,
  timer: async () => (await import('./timer/index.ts')).timer,
  mlx5: async (openPort) => (await import('./mlx5/index.ts')).mlx5Model(openPort),
};

/** The models that ship, by the names that `serve` takes. */
export const modelNames: readonly string[] = Object.keys(shipped);

/**
 * The model that ships as `name`; undefined if there is none.
 *
 * @param openPort makes its network port if it has one; default: a port with nothing behind it
 */
export async function shippedModel(
  name: string,
  openPort: OpenPort = noPort,
): Promise<DeviceModel | undefined> {
  const load = Object.hasOwn(shipped, name) ? shipped[name] : undefined;
  return (await load?.(openPort)) as DeviceModel | undefined;
}
