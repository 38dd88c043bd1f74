import type { DeviceModel } from '../src/device/index.ts';
import { hello } from './hello/index.ts';
import { mlx5Model, type OpenPort } from './mlx5/index.ts';
import { noPort } from './mlx5/no-port.ts';
import { ram } from './ram/index.ts';
import { timer } from './timer/index.ts';

/**
 * The models that ship, by the name that `serve` takes.
 *
 * @param openPort makes the network ports of those that have one; default: ports with nothing behind them
 */
export function shippedModels(openPort: OpenPort = noPort): ReadonlyMap<string, DeviceModel> {
  const list = [hello, ram, timer, mlx5Model(openPort)];
  return new Map(list.map((model) => [model.name, model as unknown as DeviceModel]));
}

export const models = shippedModels();
