/** What stands in an answer of QEMU, or in another value that came as JSON. */

/** What lies at `path`, a way through own properties; undefined where there is nothing. */
export function field(value: unknown, ...path: string[]): unknown {
  let at: unknown = value;
  for (const name of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, name)) return undefined;
    at = (at as Record<string, unknown>)[name];
  }
  return at;
}

export function numberAt(value: unknown, ...path: string[]): number {
  const found = field(value, ...path);
  return typeof found === 'number' ? found : 0;
}

export function textAt(value: unknown, ...path: string[]): string {
  const found = field(value, ...path);
  return typeof found === 'string' ? found : '';
}

export function listAt(value: unknown, ...path: string[]): readonly unknown[] {
  const found = path.length === 0 ? value : field(value, ...path);
  return Array.isArray(found) ? found : [];
}
