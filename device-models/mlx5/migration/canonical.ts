import type { DeviceObject, ObjectTable } from '../objects.ts';

/**
 * The same value with the fields of all its records in alphabetical order: so that equal states are equal byte for
 * byte, however the objects came to be.
 */
export function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return typeof value[0] === 'object' ? value.map(canonical) : value;
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value;
  const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(fields.map(([name, field]) => [name, canonical(field)]));
}

/** All objects of a table by id. */
export function byId<T extends DeviceObject>(table: ObjectTable<T>): T[] {
  return [...table.values()].sort((a, b) => a.id - b.id);
}
