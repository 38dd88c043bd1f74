import { limits } from './limits.ts';
import { adapterPageBytes, logAdapterPage, PagedRing } from './memory.ts';
import { DeviceObject } from './objects.ts';
import { wq } from './prm/index.ts';
import { require } from './refusal.ts';

/** `sqc.state` and `rqc.state`. */
export const queueState = { RST: 0, RDY: 1, ERR: 3 } as const;
export type QueueState = (typeof queueState)[keyof typeof queueState];

/** `wq.wq_type`. */
export const wqType = { LINKED_LIST: 0, CYCLIC: 1, LINKED_LIST_STRIDING: 2, CYCLIC_STRIDING: 3 } as const;

const maxLogPageSize = 8;
/** A doorbell record, of a work queue or a CQ: two words. */
export const doorbellRecordBytes = 8;

/** The WQ part of a queue context, checked. */
export interface WorkQueueSettings {
  readonly wqType: number;
  readonly pd: number;
  /** Doorbell record: receive counter, send counter. */
  readonly dbr: number;
  readonly logStride: number;
  readonly logSize: number;
  readonly logPageSize: number;
  readonly pages: readonly number[];
}

/** What a send and a receive queue have in common: a ring of WQEs, a state, and how far the WQEs have been taken. */
export abstract class WorkQueue<S extends { readonly wq: WorkQueueSettings }> extends DeviceObject {
  readonly settings: S;
  readonly ring: PagedRing;
  state: QueueState = queueState.RST;
  /** Consumer index modulo 2^16. */
  ci = 0;

  constructor(id: number, settings: S) {
    super(id);
    this.settings = settings;
    const { pages, logSize, logStride, logPageSize } = settings.wq;
    this.ring = new PagedRing(pages, logSize, logStride, logPageSize);
  }

  setState(state: QueueState): void {
    this.state = state;
    if (state === queueState.RST) this.restart();
    this.touch();
  }

  /** The queue is as if it had just been made. */
  protected restart(): void {
    this.ci = 0;
  }
}

/** Whether `address` may be the start of `length` bytes that a guest names, aligned to `alignment`. */
export function isAddress(address: number, length: number, alignment: number): boolean {
  return Number.isSafeInteger(address + length) && address >= 0 && address % alignment === 0;
}

/**
 * The page list at `at` of a command.
 * @param logPageSize page size is `4096 << logPageSize`
 */
export function readPageList(input: Buffer, at: number, count: number, logPageSize = 0): number[] {
  require(input.length >= at + 8 * count, 'badPageList', `page list of ${count} pages is cut off`);
  const pageBytes = adapterPageBytes * 2 ** logPageSize;
  const pages: number[] = [];
  for (let index = 0; index < count; index++) {
    const high = input.readUInt32BE(at + 8 * index);
    const page = high * 2 ** 32 + input.readUInt32BE(at + 8 * index + 4);
    require(isAddress(
      page,
      pageBytes,
      adapterPageBytes,
    ), 'badPageList', 'page address not aligned or too large');
    pages.push(page);
  }
  return pages;
}

/**
 * Reads and checks the WQ context at byte `base` of a CREATE_SQ or CREATE_RQ.
 * @param stride allowed `log_wq_stride`
 */
export function readWorkQueue(
  input: Buffer,
  base: number,
  stride: { readonly min: number; readonly max: number },
): WorkQueueSettings {
  const logStride = wq.get(input, 'log_wq_stride', base);
  const logSize = wq.get(input, 'log_wq_sz', base);
  const logPageSize = wq.get(input, 'log_wq_pg_sz', base);
  const dbr = wq.get64(input, 'dbr_addr', base);
  require(logStride >= stride.min && logStride <= stride.max, 'badSize', `log_wq_stride ${logStride}`);
  require(logSize <= limits.logWqSize, 'badSize', `log_wq_sz ${logSize}`);
  require(logPageSize <= maxLogPageSize, 'badSize', `log_wq_pg_sz ${logPageSize}`);
  require(wq.get(input, 'page_offset', base) === 0, 'badPageList', 'page_offset is not supported');
  require(isAddress(dbr, doorbellRecordBytes, doorbellRecordBytes), 'badAddress', 'doorbell record address');
  require(logStride < logAdapterPage, 'badSize', 'stride larger than a page');
  const count = PagedRing.pagesNeeded(logSize, logStride, logPageSize);
  return {
    wqType: wq.get(input, 'wq_type', base),
    pd: wq.get(input, 'pd', base),
    dbr,
    logStride,
    logSize,
    logPageSize,
    pages: readPageList(input, base + wq.byte('pas'), count, logPageSize),
  };
}

/** Writes the WQ context of a QUERY_SQ or QUERY_RQ at byte `base`. */
export function writeWorkQueue(
  output: Buffer,
  base: number,
  settings: WorkQueueSettings,
  counters: { readonly hw: number; readonly sw: number },
): void {
  wq.set(output, 'wq_type', settings.wqType, base);
  wq.set(output, 'pd', settings.pd, base);
  wq.set64(output, 'dbr_addr', settings.dbr, base);
  wq.set(output, 'hw_counter', counters.hw, base);
  wq.set(output, 'sw_counter', counters.sw, base);
  wq.set(output, 'log_wq_stride', settings.logStride, base);
  wq.set(output, 'log_wq_pg_sz', settings.logPageSize, base);
  wq.set(output, 'log_wq_sz', settings.logSize, base);
}
