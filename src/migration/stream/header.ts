import { StateRefused } from '../../errors.ts';
import { type Geometry, knownFeatures, type StreamHeader, type StreamTotals } from './format.ts';

/** What a loading device is, to be compared with what a stream says. */
export interface LoadTarget {
  readonly model: string;
  readonly stateVersion: number;
  /** Older versions that load as well. */
  readonly loadsVersions: readonly number[];
  readonly geometry: Geometry;
  /** Highest version of the framework's sections that is understood. */
  readonly frameworkVersion: number;
}

function record(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) {
    throw new StateRefused(`the ${what} of the state is no record`);
  }
  return value as Record<string, unknown>;
}

function count(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new StateRefused(`${what} of the state is no count`);
  }
  return value;
}

/** Checks that what was unpacked is a header; fields that are not known are ignored. */
export function checkHeader(value: unknown): StreamHeader {
  const header = record(value, 'header');
  const geometry = record(header.geometry, 'geometry');
  if (typeof header.model !== 'string') throw new StateRefused('the header of the state names no model');
  for (const [key, entry] of Object.entries(geometry)) {
    if (!['number', 'string', 'boolean'].includes(typeof entry)) {
      throw new StateRefused(
        `the geometry ${quoted(key)} of the state is neither number, string nor boolean`,
      );
    }
  }
  const requires: unknown = header.requires;
  if (!Array.isArray(requires) || !requires.every((entry) => typeof entry === 'string')) {
    throw new StateRefused('the header of the state has no list of required features');
  }
  return {
    model: header.model,
    stateVersion: count(header.stateVersion, 'stateVersion'),
    geometry: geometry as Geometry,
    requires,
    frameworkVersion: count(header.frameworkVersion, 'frameworkVersion'),
    pageSize: count(header.pageSize, 'pageSize'),
  };
}

const longestQuote = 80;
const mostDifferences = 8;

/** What a stream says, for a message: quoted, without control characters, and not longer than is useful. */
export function quoted(value: unknown): string {
  const json = value === undefined ? 'absent' : (JSON.stringify(value) ?? String(value));
  const text = json.replace(/[\u007f-\u009f]/g, '?');
  return text.length <= longestQuote ? text : `${text.slice(0, longestQuote)}…`;
}

/** Compares what the end of a stream claims with what was counted. */
export function checkTotals(value: unknown, seen: StreamTotals): void {
  const totals = record(value, 'end');
  for (const key of ['chunks', 'bytes', 'digest'] as const) {
    if (totals[key] !== seen[key]) {
      throw new StateRefused(
        `the end of the state says ${key} ${quoted(totals[key])}, seen were ${seen[key]}`,
      );
    }
  }
}

/** Throws `StateRefused` naming everything in which the state differs from the device that should load it. */
export function checkLoadable(header: StreamHeader, target: LoadTarget): void {
  const differences: string[] = [];
  if (header.model !== target.model) {
    throw new StateRefused(
      `the state is of the model ${quoted(header.model)}, this device is "${target.model}"`,
    );
  }
  const versions = [target.stateVersion, ...target.loadsVersions];
  if (!versions.includes(header.stateVersion)) {
    differences.push(
      `it has version ${header.stateVersion}, this device loads ${versions.sort((a, b) => a - b).join(', ')}`,
    );
  }
  if (header.frameworkVersion > target.frameworkVersion) {
    differences.push(
      `its framework sections have version ${header.frameworkVersion}, this server reads up to ${target.frameworkVersion}`,
    );
  }
  for (const feature of header.requires) {
    if (!knownFeatures.includes(feature)) differences.push(`it needs the unknown feature ${quoted(feature)}`);
  }
  const keys = new Set([...Object.keys(header.geometry), ...Object.keys(target.geometry)]);
  for (const key of keys) {
    const there = Object.hasOwn(header.geometry, key) ? header.geometry[key] : undefined;
    const here = Object.hasOwn(target.geometry, key) ? target.geometry[key] : undefined;
    if (there !== here)
      differences.push(`${quoted(key).slice(1, -1)} is ${quoted(there)} there and ${quoted(here)} here`);
  }
  if (differences.length === 0) return;
  const more = differences.length - mostDifferences;
  if (more > 0) differences.splice(mostDifferences, more, `and ${more} more`);
  throw new StateRefused(`this ${target.model} can't load the state: ${differences.join('; ')}`, {
    hint: 'Serve the destination with the same options as the source, and a version that is not older.',
  });
}
