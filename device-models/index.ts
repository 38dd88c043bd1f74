import type { DeviceModel } from '../src/device/index.ts';
import { hello } from './hello/index.ts';
import { ram } from './ram/index.ts';
import { timer } from './timer/index.ts';

/** The models that ship, by the name that `serve` takes. */
export const models: ReadonlyMap<string, DeviceModel> = new Map(
  [hello, ram, timer].map((model) => [model.name, model as unknown as DeviceModel]),
);
