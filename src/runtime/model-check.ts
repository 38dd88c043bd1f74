/** Whether something that came from outside is a device model, and what is wrong with it if not. */
import type { DeviceModel } from '../device/model.ts';

const optionTypes = ['number', 'string', 'boolean'];
const namePattern = /^[A-Za-z0-9][\w.-]{0,63}$/;

type Fields = Readonly<Record<string, unknown>>;

function isRecord(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isVersion(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function* optionFaults(options: unknown): Generator<string> {
  if (!isRecord(options)) {
    yield 'options is no table (without options it is {})';
    return;
  }
  for (const [key, spec] of Object.entries(options)) {
    if (!isRecord(spec)) yield `options.${key} is no description of an option`;
    else {
      const { type, default: value, description, min, max } = spec;
      if (typeof type !== 'string' || !optionTypes.includes(type))
        yield `options.${key}.type is not ${optionTypes.join(', ')}`;
      else if (typeof value !== type) yield `options.${key}.default is no ${type}`;
      if (typeof description !== 'string') yield `options.${key}.description is no text`;
      for (const [which, bound] of [
        ['min', min],
        ['max', max],
      ] as const)
        if (bound !== undefined && typeof bound !== 'number') yield `options.${key}.${which} is no number`;
    }
  }
}

function* faults(model: Fields): Generator<string> {
  const { name, description, stateVersion, loadsVersions, options, pci, create } = model;
  if (typeof name !== 'string' || !namePattern.test(name))
    yield 'name is not 1 to 64 letters, digits and "._-"';
  if (typeof description !== 'string') yield 'description is no text';
  if (!isVersion(stateVersion)) yield 'stateVersion is no whole number';
  if (loadsVersions !== undefined) {
    if (!Array.isArray(loadsVersions) || !loadsVersions.every(isVersion))
      yield 'loadsVersions is no list of whole numbers';
    else if (isVersion(stateVersion) && loadsVersions.some((version) => version > stateVersion))
      yield 'loadsVersions has a version above stateVersion';
  }
  yield* optionFaults(options);
  if (typeof pci !== 'function') yield 'pci is no function';
  if (typeof create !== 'function') yield 'create is no function';
}

/** What keeps `value` from being a `DeviceModel`; empty: nothing that can be told without making a device. */
export function modelFaults(value: unknown): string[] {
  return isRecord(value) ? [...faults(value)] : ['it is no object'];
}

/** Whether `value` looks as if it was meant to be a model. */
export function resemblesModel(value: unknown): boolean {
  return isRecord(value) && typeof value.create === 'function';
}

export function isModel(value: unknown): value is DeviceModel {
  return modelFaults(value).length === 0;
}
