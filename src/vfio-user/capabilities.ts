import { errno, RequestError } from '../errors.ts';
import { defaultLimits, largestDataXferSize } from './constants.ts';

/** `migration` capability (libvfio-user, QEMU): page size and largest bitmap, in bytes. */
export interface MigrationCapability {
  readonly pgsize: number;
  readonly maxBitmapSize: number | undefined;
}

/**
 * What one side announced in VERSION (specification, section "Version"), defaults filled in. `proposed` holds
 * the keys that were really there: a reply may only name those.
 */
export interface Capabilities {
  readonly proposed: ReadonlySet<string>;
  readonly maxMsgFds: number;
  readonly maxDataXferSize: number;
  readonly maxDmaMaps: number;
  readonly pgsizes: number;
  readonly writeMultiple: boolean;
  readonly migration: MigrationCapability | undefined;
  /** Our own extension on the migration socket: `vfio_companion`, version 1. */
  readonly companion: boolean;
}

/** What this side offers. */
export interface OfferedCapabilities {
  readonly maxMsgFds: number;
  readonly maxDataXferSize: number;
  readonly maxDmaMaps: number;
  readonly pgsizes: number;
  readonly writeMultiple: boolean;
  readonly migration: { readonly pgsize: number; readonly maxBitmapSize: number } | undefined;
  readonly companion: boolean;
}

/** Largest bitmap that is announced and ever made: QEMU's VFIO_USER_DEF_MAX_BITMAP. */
const maxBitmapSize = 256 * 1024 * 1024;

/** What our server and clients offer unless told otherwise. */
export const defaultOffer: OfferedCapabilities = {
  maxMsgFds: 16,
  maxDataXferSize: defaultLimits.maxDataXferSize,
  maxDmaMaps: defaultLimits.maxDmaMaps,
  pgsizes: defaultLimits.pageSizes,
  writeMultiple: true,
  migration: { pgsize: 4096, maxBitmapSize },
  companion: false,
};

/** Largest number of descriptors in a message that a peer may announce; libvfio-user refuses more. */
const mostMsgFds = 1024;
/** Sizes and masks of page sizes have 64 bits. Rounded above 2^53, where no limit of a peer matters here. */
const most64 = 2 ** 64;

function refuse(message: string): never {
  throw new RequestError(errno.EINVAL, `VERSION: ${message}`);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function integer(
  from: Record<string, unknown>,
  key: string,
  min: number,
  max: number,
  absent: number,
): number {
  const value = Object.hasOwn(from, key) ? from[key] : undefined;
  if (value === undefined) return absent;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    refuse(
      `capability ${key} is ${String(JSON.stringify(value)).slice(0, 60)}, not an integer from ${min} to ${max}`,
    );
  }
  return value;
}

/** The capability object of a version payload: what follows major and minor. Empty when nothing follows. */
function parseData(data: Buffer): Record<string, unknown> {
  if (data.length === 0) return {};
  if (data[data.length - 1] !== 0) refuse('the capabilities do not end in NUL');
  const text = data.subarray(0, data.indexOf(0)).toString('utf8');
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    refuse('the capabilities are not JSON');
  }
  if (!isObject(parsed)) refuse('the capabilities are not a JSON object');
  const capabilities = Object.hasOwn(parsed, 'capabilities') ? parsed.capabilities : undefined;
  if (capabilities === undefined) return {};
  if (!isObject(capabilities)) refuse('"capabilities" is not a JSON object');
  return capabilities;
}

function parseMigration(from: Record<string, unknown>): MigrationCapability | undefined {
  if (!Object.hasOwn(from, 'migration')) return undefined;
  const migration = from.migration;
  if (!isObject(migration)) refuse('capability migration is not an object');
  const pgsize = integer(migration, 'pgsize', 1, most64, defaultLimits.pageSizes);
  const bitmap = integer(migration, 'max_bitmap_size', 0, most64, -1);
  return { pgsize, maxBitmapSize: bitmap < 0 ? undefined : bitmap };
}

/**
 * Reads the version data of a peer, all of it hostile until checked. Unknown capabilities are left alone.
 *
 * @param data what follows major and minor in a VERSION message: JSON with a final NUL, or nothing
 * @throws RequestError EINVAL for bad JSON, wrong types, values out of range
 */
export function parseCapabilities(data: Buffer): Capabilities {
  const from = parseData(data);
  const flag = (key: string): boolean => {
    const value = Object.hasOwn(from, key) ? from[key] : false;
    if (typeof value !== 'boolean') refuse(`capability ${key} is not a boolean`);
    return value;
  };
  return {
    proposed: new Set(Object.keys(from)),
    maxMsgFds: integer(from, 'max_msg_fds', 0, mostMsgFds, defaultLimits.maxMsgFds),
    maxDataXferSize: integer(from, 'max_data_xfer_size', 1, most64, defaultLimits.maxDataXferSize),
    maxDmaMaps: integer(from, 'max_dma_maps', 0, most64, defaultLimits.maxDmaMaps),
    pgsizes: integer(from, 'pgsizes', 1, most64, defaultLimits.pageSizes),
    writeMultiple: flag('write_multiple'),
    migration: parseMigration(from),
    companion: integer(from, 'vfio_companion', 0, Number.MAX_SAFE_INTEGER, 0) === 1,
  };
}

/**
 * The version data to send. With `peer`, as a reply: only what the peer proposed, so that the reply is never
 * longer than the request for QEMU's client, which receives it into the request's own buffer.
 */
export function formatCapabilities(offer: OfferedCapabilities, peer?: Capabilities): Buffer {
  const named = (key: string): boolean => peer === undefined || peer.proposed.has(key);
  const capabilities: Record<string, unknown> = {};
  if (named('max_msg_fds')) capabilities.max_msg_fds = offer.maxMsgFds;
  if (named('max_data_xfer_size')) {
    capabilities.max_data_xfer_size = Math.min(offer.maxDataXferSize, largestDataXferSize);
  }
  if (named('pgsizes')) capabilities.pgsizes = offer.pgsizes;
  if (named('max_dma_maps')) capabilities.max_dma_maps = offer.maxDmaMaps;
  if (named('write_multiple')) {
    capabilities.write_multiple = offer.writeMultiple && (peer?.writeMultiple ?? true);
  }
  if (offer.migration !== undefined && named('migration')) {
    const { pgsize, maxBitmapSize } = offer.migration;
    const theirs = peer?.migration;
    capabilities.migration =
      peer !== undefined && theirs?.maxBitmapSize === undefined
        ? { pgsize }
        : { pgsize, max_bitmap_size: Math.min(maxBitmapSize, theirs?.maxBitmapSize ?? maxBitmapSize) };
  }
  if (offer.companion && named('vfio_companion') && (peer?.companion ?? true))
    capabilities.vfio_companion = 1;
  return Buffer.from(`${JSON.stringify({ capabilities })}\0`);
}
