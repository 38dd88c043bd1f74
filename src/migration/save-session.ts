import type { PreCopySession, StateRecord } from '../device/migration.ts';
import { CompanionError, errno } from '../errors.ts';
import type { StateSource } from './sections.ts';
import { precopyInfoFlags } from './state.ts';
import { StreamEncoder } from './stream/encoder.ts';
import { frameworkPrefix, streamFeature } from './stream/format.ts';

/** Bytes allowed for header, end and one framework section in estimates. */
const estimate = { frame: 512, section: 1024 } as const;

export interface PrecopyInfo {
  initialBytes: number;
  dirtyBytes: number;
  /** `precopyInfoFlags` bits. */
  flags: number;
}

/**
 * One read session: the state as a stream of bytes, from →PRE_COPY or STOP→STOP_COPY until the saving
 * states are left. In PRE_COPY the end is "for now"; after `finish()` it is the end.
 */
export class SaveSession {
  readonly #source: StateSource;
  #encoder: StreamEncoder;
  /** Present while (and after) the device runs during the save. */
  #preCopy: PreCopySession | undefined;
  #last: Iterator<StateRecord | 'end'> | undefined;
  #failure: unknown;
  /** The device was reset: the stream has to say so, and the precopy session is of a device that is gone. */
  #restart = false;
  #stale = false;
  #reinit = false;
  /** What follows is a stream of its own, complete without what was sent before. */
  #afresh = false;
  /** Whether the record under way is of the first pass; the header is. */
  #initial = true;

  /** @param running opened by →PRE_COPY: the device goes on; otherwise it is stopped and all is saved. */
  constructor(source: StateSource, running: boolean) {
    this.#source = source;
    const { restart, afresh } = streamFeature;
    const complete = source.device?.finalIsComplete ?? false;
    this.#encoder = this.#newEncoder(running ? (complete ? [restart, afresh] : [restart]) : []);
    if (running) this.#preCopy = source.device?.preCopy?.();
    else this.#last = this.#remaining();
  }

  /** Fills `target`; a short count means that there is nothing more, for now or for good. */
  read(target: Uint8Array): number {
    this.assertIntact();
    let at = 0;
    try {
      for (;;) {
        at += this.#encoder.take(target, at);
        if (at === target.length || !this.#encoder.idle || !this.#next()) return at;
      }
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  /** Throws when an earlier read failed: a stream with a hole must not be continued. */
  assertIntact(): void {
    if (this.#failure === undefined) return;
    throw new CompanionError('VC_STATE_UNSAVABLE', 'saving failed earlier; this stream is void', {
      errno: errno.EIO,
      cause: this.#failure,
      hint: 'Go back to RUNNING and start a new migration.',
    });
  }

  /**
   * The device is stopped: what is missing follows, then the end. Where the device gives its whole state
   * again, a new stream begins here, behind the chunk that is under way; a reader who had read all there was
   * has none under way and may throw away what it read.
   */
  finish(): void {
    this.assertIntact();
    this.#last = this.#remaining();
    if (this.#source.device?.finalIsComplete !== true) return;
    this.#encoder.abandon();
    this.#afresh = true;
  }

  /**
   * The device was reset under a running session: all of it is initial again, and the reader is told to
   * forget what it has. The device is asked at the next read only, so this may be called from anywhere.
   */
  restart(): void {
    this.#restart = true;
    this.#stale = true;
    this.#reinit = true;
    this.#initial = true;
    this.#encoder.abandon();
  }

  info(): PrecopyInfo {
    this.#refresh();
    const pending = this.#encoder.pending;
    const initialBytes = (this.#preCopy?.initialBytes() ?? 0) + (this.#initial ? pending : 0);
    const dirtyBytes = (this.#preCopy?.dirtyBytes() ?? 0) + (this.#initial ? 0 : pending);
    const flags = this.#reinit ? precopyInfoFlags.REINIT : 0;
    // Reported until it has been seen once together with "nothing initial left".
    if (initialBytes === 0) this.#reinit = false;
    return { initialBytes, dirtyBytes, flags };
  }

  /** Estimate of the bytes that STOP_COPY would read now. */
  remainingBytes(): number {
    this.#refresh();
    const frame = estimate.frame + estimate.section * this.#source.framework.length;
    const pending = this.#encoder.pending;
    const preCopy = this.#preCopy;
    const device = this.#source.device;
    if (preCopy === undefined || device?.finalIsComplete === true)
      return pending + frame + (device?.estimate() ?? 0);
    return pending + frame + preCopy.initialBytes() + preCopy.dirtyBytes() + (preCopy.finalBytes?.() ?? 0);
  }

  /** Gives tracking back. The stream is over, complete or not. */
  close(): void {
    const last = this.#last;
    const preCopy = this.#preCopy;
    this.#last = undefined;
    this.#preCopy = undefined;
    last?.return?.();
    preCopy?.end();
  }

  /** Puts the next item into the idle encoder; false when there is none for now. */
  #next(): boolean {
    this.#refresh();
    if (this.#afresh) {
      this.#afresh = false;
      this.#restart = false;
      this.#encoder = this.#newEncoder([]);
      return true;
    }
    if (this.#restart) {
      this.#restart = false;
      this.#encoder.putRestart();
      return true;
    }
    if (this.#last !== undefined) {
      const { done, value } = this.#last.next();
      if (done || value === undefined) return false;
      if (value === 'end') this.#encoder.putEnd();
      else this.#put(value);
      return true;
    }
    const preCopy = this.#preCopy;
    if (preCopy === undefined) return false;
    this.#initial = preCopy.initialBytes() > 0;
    const record = preCopy.next();
    if (record === undefined) return false;
    if (record.section.startsWith(frameworkPrefix)) this.#refuseName(record.section);
    this.#put(record);
    return true;
  }

  #newEncoder(requires: readonly string[]): StreamEncoder {
    const { model, device, frameworkVersion } = this.#source;
    return new StreamEncoder({
      model: model.name,
      stateVersion: model.stateVersion,
      geometry: device?.geometry ?? {},
      requires,
      frameworkVersion,
      pageSize: 4096,
    });
  }

  #put(record: StateRecord): void {
    if ('bytes' in record) this.#encoder.putBulk(record.section, record.offset, record.bytes);
    else this.#encoder.putValue(record.section, record.value);
    // The device was reset while it made the record.
    if (this.#restart) this.#encoder.abandon();
  }

  #refuseName(section: string): never {
    throw new CompanionError(
      'VC_STATE_UNSAVABLE',
      `a device's section can't be called "${section}": "${frameworkPrefix}" marks the framework's own`,
    );
  }

  /** Everything that is still missing of a stopped device. */
  *#remaining(): Generator<StateRecord | 'end', void> {
    this.#refresh();
    const { device, framework } = this.#source;
    for (const record of this.#preCopy?.final() ?? device?.save() ?? []) {
      if (record.section.startsWith(frameworkPrefix)) this.#refuseName(record.section);
      yield record;
    }
    for (const section of framework) {
      yield { section: frameworkPrefix + section.section, value: section.save() };
    }
    yield 'end';
  }

  /** Opens the precopy session anew, if the device has been reset since. */
  #refresh(): void {
    if (!this.#stale) return;
    this.#stale = false;
    const old = this.#preCopy;
    this.#preCopy = undefined;
    old?.end();
    this.#preCopy = this.#source.device?.preCopy?.();
  }
}
