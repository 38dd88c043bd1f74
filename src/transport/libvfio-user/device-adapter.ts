import { CompanionError, errno, errnoOf, RequestError } from '../../errors.ts';
import type { LimitedLog } from '../../limited-log.ts';
import type { Logger } from '../../log.ts';
import { closeFd, rawArea } from '../../posix/index.ts';
import { libc } from '../../posix/libc.ts';
import { defaultLimits } from '../../vfio-user/constants.ts';
import type { ServedDevice, ServedMigration } from '../served-device.ts';
import type { ContextHandlers } from './context.ts';
import { type Due, DueQueue } from './due-queue.ts';
import { resetType, syslog } from './layout.ts';

/** What the library does not pass on of the DMA_MAP that it is about to handle. */
export interface OfferedMemory {
  /** The adapter's, until it is taken or closed. */
  fd: number | undefined;
  readonly fdOffset: number;
}

/** Writes and resets that may wait for the end of a wait for DMA. */
const maxDue = 65536;

/**
 * The library's callbacks as requests to a `ServedDevice`, with the order that the native server has: a write
 * is checked in its callback and done after the library has answered it, so that the device may wait for DMA
 * then.
 */
export class DeviceAdapter implements ContextHandlers {
  readonly #device: ServedDevice;
  readonly #log: Logger;
  readonly #limited: LimitedLog;
  /** Where register values cross from and to C. */
  readonly #slab = rawArea(defaultLimits.maxDataXferSize);
  readonly #due = new DueQueue();
  #slabTaken = false;
  #draining = false;
  /** Requests inside the library: their client waits for an answer. */
  #inside = 0;
  #lost = false;
  /** Set by the session: the device waits for DMA up the stack. */
  waiting = false;
  /** Set by the session; see `ClientLink`. */
  unwind: ((reset: () => void) => boolean) | undefined;
  /** Set by the session around a DMA_MAP. */
  offered: OfferedMemory | undefined;

  constructor(device: ServedDevice, log: Logger, limited: LimitedLog) {
    this.#device = device;
    this.#log = log;
    this.#limited = limited;
  }

  /** Whether the library is at work on a request. */
  get inside(): boolean {
    return this.#inside > 0;
  }

  /** Whether the library has ended the connection since this was last asked. */
  takeLost(): boolean {
    const lost = this.#lost;
    this.#lost = false;
    return lost;
  }

  /** Runs the library's `work`, and keeps in mind meanwhile that a client waits. */
  enter(work: () => number): number {
    this.#inside += 1;
    try {
      return work();
    } finally {
      this.#inside -= 1;
    }
  }

  /** Does what has been answered. With the device waiting for DMA, only configuration space is written. */
  drain(): void {
    if (this.waiting) {
      this.#drainConfig();
      return;
    }
    if (this.#draining || this.#due.length === 0) return;
    this.#draining = true;
    try {
      for (let next = this.#due.take(); next !== undefined; next = this.#due.take()) this.#do(next);
    } finally {
      this.#draining = false;
    }
  }

  regionAccess(region: number, buffer: number, count: number, offset: number, write: boolean): void {
    const { bytes, address } = this.#slab;
    if (count > bytes.length)
      throw new RequestError(errno.EINVAL, `region access of ${count} bytes, at most ${bytes.length}`);
    if (write) {
      this.#write(region, buffer, count, offset);
      return;
    }
    const target = this.#slabTaken ? rawArea(count) : { bytes, address };
    this.#device.regionRead(region, offset, count, target.bytes, 0);
    libc.memcpy(buffer, target.address, count);
  }

  reset(kind: number): void {
    if (kind === resetType.lostConnection) {
      this.#lost = true;
      return;
    }
    const reset = () => this.#device.reset();
    if (this.unwind?.(reset) !== true) reset();
  }

  /** Does `work` when the device waits no more, in order with the writes that are due; throws EBUSY. */
  postpone(work: () => void): void {
    if (this.#due.length >= maxDue) throw new RequestError(errno.EBUSY, 'too much waits for DMA');
    this.#due.push(work);
  }

  dmaRegistered(iova: number, length: number, prot: number, mapped: boolean): void {
    const { offered } = this;
    const fd = mapped ? offered?.fd : undefined;
    if (mapped && fd === undefined)
      this.#log.warn({ iova, length }, 'a mapped DMA region came without a file');
    this.#device.dmaMap({ iova, size: length, prot, fd, fdOffset: offered?.fdOffset ?? 0 });
    if (offered !== undefined && fd !== undefined) offered.fd = undefined;
  }

  dmaUnregistered(iova: number, length: number): void {
    this.#device.dmaUnmap(iova, length);
  }

  transition(state: number): void {
    this.#migration().setState(state);
  }

  readState(buffer: number, count: number): number {
    const migration = this.#migration();
    const { bytes, address } = this.#slab;
    const read = migration.read(bytes.subarray(0, Math.min(count, bytes.length)));
    libc.memcpy(buffer, address, read);
    return read;
  }

  writeState(buffer: number, count: number): void {
    const migration = this.#migration();
    const { bytes, address } = this.#slab;
    for (let done = 0; done < count; ) {
      const part = Math.min(count - done, bytes.length);
      libc.memcpy(address, buffer + done, part);
      migration.write(bytes.subarray(0, part));
      done += part;
    }
  }

  log(level: number, message: string): void {
    const text = `libvfio-user: ${message.trimEnd()}`;
    if (level <= syslog.warning) this.#limited.warn({ level }, text);
    else if (level <= syslog.info) this.#log.debug(text);
    else this.#log.trace(text);
  }

  failed(error: unknown): number {
    if (error instanceof CompanionError)
      this.#limited.warn({ errno: error.errno, code: error.code }, `request refused: ${error.message}`);
    else this.#log.error({ err: error }, 'a request failed in the device');
    return errnoOf(error);
  }

  /** Closes what is left of an offer. */
  withdraw(): void {
    if (this.offered?.fd !== undefined) closeFd(this.offered.fd);
    this.offered = undefined;
  }

  /** Forgets what is due; the client it is due to has gone. */
  clear(): void {
    this.#due.clear();
    this.#slabTaken = false;
  }

  #migration(): ServedMigration {
    const { migration } = this.#device;
    if (migration === undefined) throw new RequestError(errno.EINVAL, `${this.#device.name} can't migrate`);
    // The library answers at once, so there is no way to let it wait for the end of the device's own wait.
    if (this.waiting || this.#slabTaken)
      throw new RequestError(errno.EBUSY, 'the device waits for DMA: its migration state is not its own');
    return migration;
  }

  #write(region: number, buffer: number, count: number, offset: number): void {
    this.#device.checkRegionWrite(region, offset, count);
    if (this.#due.length >= maxDue)
      throw new RequestError(errno.EBUSY, 'too many writes while the device waits for DMA');
    const alone = !this.#slabTaken && this.#due.length === 0;
    const target = alone ? this.#slab : rawArea(count);
    libc.memcpy(target.address, buffer, count);
    if (alone) this.#slabTaken = true;
    this.#due.push({ region, offset, count, source: target.bytes });
  }

  #drainConfig(): void {
    for (let next = this.#due.takeConfig(); next !== undefined; next = this.#due.takeConfig()) this.#do(next);
  }

  #do(next: Due): void {
    try {
      if (typeof next === 'function') next();
      else this.#device.regionWrite(next.region, next.offset, next.count, next.source, 0);
    } catch (error) {
      this.#writeFailed(error);
    } finally {
      if (typeof next === 'object' && next.source === this.#slab.bytes) this.#slabTaken = false;
    }
  }

  /** The client has its answer: what goes wrong now can only be logged. */
  #writeFailed(error: unknown): void {
    if (error instanceof CompanionError)
      this.#limited.warn({ code: error.code }, `a write failed after its answer: ${error.message}`);
    else this.#log.error({ err: error }, 'a write failed in the device');
  }
}
