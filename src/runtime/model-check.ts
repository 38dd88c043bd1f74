/** Whether something that came from outside is a device model, or a device, and what is wrong with it if not. */
import type { Device, DeviceModel } from '../device/model.ts';
import type { PciDescription } from '../device/pci-description.ts';
import { CompanionError, errno } from '../errors.ts';

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

const optionalHooks = ['quiesce', 'resume', 'commandChanged', 'close'] as const;
const migrationHooks = ['estimate', 'save', 'beginLoad', 'load', 'endLoad'] as const;

function* barFaults(bars: unknown, described: PciDescription['bars']): Generator<string> {
  if (typeof bars !== 'object' || bars === null) {
    yield 'bars is no table (without handlers it is {})';
    return;
  }
  for (const [index, handler] of Object.entries(bars as Fields)) {
    if (handler === undefined) continue;
    if (!Object.hasOwn(described, index)) yield `bars[${index}] handles a BAR that pci() does not describe`;
    const { read, write } = isRecord(handler) ? handler : {};
    if (typeof read !== 'function' || typeof write !== 'function')
      yield `bars[${index}] lacks read() or write()`;
  }
}

function* migrationFaults(migration: unknown): Generator<string> {
  if (migration === undefined) return;
  if (!isRecord(migration)) {
    yield 'migration is no object';
    return;
  }
  if (typeof migration.p2p !== 'boolean') yield 'migration.p2p is not true or false';
  if (!isRecord(migration.geometry))
    yield 'migration.geometry is no table (with nothing to compare it is {})';
  for (const name of migrationHooks)
    if (typeof migration[name] !== 'function') yield `migration.${name} is no function`;
  const { preCopy } = migration;
  if (preCopy !== undefined && typeof preCopy !== 'function') yield 'migration.preCopy is no function';
}

/** What keeps `value` from being a `Device` with the BARs that are `described`; empty: nothing that can be told now. */
export function deviceFaults(value: unknown, described: PciDescription['bars']): string[] {
  if (!isRecord(value)) return ['it is no object'];
  const found = [...barFaults(value.bars, described)];
  if (typeof value.reset !== 'function') found.push('reset is no function');
  for (const name of optionalHooks)
    if (value[name] !== undefined && typeof value[name] !== 'function') found.push(`${name} is no function`);
  const { operations } = value;
  if (operations !== undefined && !isRecord(operations)) found.push('operations is no table');
  return [...found, ...migrationFaults(value.migration)];
}

/**
 * A hook that is missing or misspelt would be noticed when it is called for, in the middle of a reset or of a migration.
 * @throws CompanionError VC_MODEL_DEVICE when what `model` has made is no device
 */
export function checkDevice(model: string, device: Device, described: PciDescription['bars']): void {
  const found = deviceFaults(device, described);
  if (found.length > 0)
    throw new CompanionError(
      'VC_MODEL_DEVICE',
      `what create() of model ${model} returns is no device: ${found.join('; ')}`,
      { errno: errno.EINVAL, hint: 'see docs/writing-a-device.md' },
    );
}
