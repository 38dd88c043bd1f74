import type { DeviceModel, OptionSpec, OptionTable, OptionValues } from '../device/model.ts';
import { CompanionError, errno } from '../errors.ts';

/** An option that a model doesn't have, or a value that it can't take. */
export class ModelOptionError extends CompanionError {
  constructor(message: string, hint: string) {
    super('VC_MODEL_OPTION', message, { errno: errno.EINVAL, hint });
  }
}

/** One line for each option of a model, for help and for errors. */
export function describeOptions(options: OptionTable): string {
  const lines = Object.entries(options).map(([key, spec]) => {
    const range =
      spec.min === undefined && spec.max === undefined ? '' : `, ${spec.min ?? ''}..${spec.max ?? ''}`;
    return `  ${key} (${spec.type}${range}, default ${JSON.stringify(spec.default)}): ${spec.description}`;
  });
  return lines.length === 0 ? '  (none)' : lines.join('\n');
}

function parseValue(key: string, spec: OptionSpec, text: unknown): number | string | boolean {
  if (spec.type === 'string') return String(text);
  if (spec.type === 'boolean') {
    if (text === true || text === 'true' || text === 'on' || text === '1') return true;
    if (text === false || text === 'false' || text === 'off' || text === '0') return false;
    throw new ModelOptionError(`${key}=${String(text)} is neither on nor off`, `say ${key}=on or ${key}=off`);
  }
  const value = typeof text === 'number' ? text : Number(String(text).trim() === '' ? Number.NaN : text);
  const { min = -Infinity, max = Infinity } = spec;
  if (!Number.isFinite(value) || value < min || value > max) {
    const range = `a number from ${spec.min ?? 'any'} to ${spec.max ?? 'any'}`;
    throw new ModelOptionError(`${key}=${String(text)} is not ${range}`, `the default is ${spec.default}`);
  }
  return value;
}

/**
 * Values for all of a model's options: what is given, checked and converted, and defaults.
 *
 * @throws ModelOptionError naming the key, the value and what would be right
 */
export function resolveOptions<T extends OptionTable>(
  model: DeviceModel<T>,
  given: Readonly<Record<string, unknown>> = {},
): OptionValues<T> {
  for (const key of Object.keys(given)) {
    if (!Object.hasOwn(model.options, key)) {
      throw new ModelOptionError(
        `model ${model.name} has no option "${key}"`,
        `it has:\n${describeOptions(model.options)}`,
      );
    }
  }
  const values = Object.entries(model.options).map(([key, spec]) => [
    key,
    given[key] === undefined ? spec.default : parseValue(key, spec, given[key]),
  ]);
  return Object.fromEntries(values) as OptionValues<T>;
}
