import { gunzipSync, gzipSync } from 'node:zlib';
import { pack, unpack } from 'msgpackr';
import type { DeviceHost, GuestMemory } from '../../../src/device/index.ts';

/** Guest memory as the device found it: where, and what. */
export interface Piece {
  readonly at: number;
  readonly bytes: Uint8Array;
}

/** A write to BAR 0. */
export interface BarWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** One thing that happened to a device, and what it read from guest memory because of it. */
export interface Step {
  /** Nanoseconds since the recording began. */
  readonly time: number;
  readonly memory: Piece[];
  readonly write?: BarWrite;
  /** A frame from the network. Neither this nor a write: time has passed. */
  readonly frame?: Uint8Array;
}

/** A session of a driver with a device, to be played again without the driver. */
export interface Recording {
  readonly vectors: number;
  readonly mac: string;
  readonly steps: readonly Step[];
}

export function packRecording(recording: Recording): Buffer {
  return gzipSync(pack(recording), { level: 9 });
}

export function unpackRecording(bytes: Uint8Array): Recording {
  return unpack(gunzipSync(bytes)) as Recording;
}

/** Notes what a device is told and what it reads. */
export class Recorder {
  readonly steps: Step[] = [];
  readonly #now: () => number;
  readonly #start: number;
  #memory: Piece[] = [];

  /** @param now nanoseconds */
  constructor(now: () => number) {
    this.#now = now;
    this.#start = now();
  }

  /** The device has read `bytes` at `at`. */
  note(at: number, bytes: Uint8Array): void {
    this.#memory.push({ at, bytes: Uint8Array.from(bytes) });
  }

  /** Runs `action`, which is what `what` says, and notes the memory that was read by it. */
  during<T>(what: Pick<Step, 'write' | 'frame'>, action: () => T): T {
    if (this.#memory.length > 0) this.#flush({});
    try {
      return action();
    } finally {
      this.#flush(what);
    }
  }

  #flush(what: Pick<Step, 'write' | 'frame'>): void {
    this.steps.push({ time: this.#now() - this.#start, memory: this.#memory, ...what });
    this.#memory = [];
  }
}

/** The host for a device whose reads of guest memory are told to `recorder`. */
export function recordedHost(inner: DeviceHost, recorder: Recorder): DeviceHost {
  return {
    log: inner.log,
    dma: recordedMemory(inner.dma, (at, bytes) => recorder.note(at, bytes)),
    messages: inner.messages,
    interrupts: inner.interrupts,
    pci: inner.pci,
    get mayInitiate() {
      return inner.mayInitiate;
    },
    barMemory: (bar) => inner.barMemory(bar),
    now: () => inner.now(),
    timer: (callback) => inner.timer(callback),
    watch: (fd, interest, callback) => inner.watch(fd, interest, callback),
    defer: (task) => inner.defer(task),
  };
}

/** `memory`, with every read told to `note` before anything is written over it. */
function recordedMemory(memory: GuestMemory, note: (at: number, bytes: Uint8Array) => void): GuestMemory {
  const word = (iova: number, count: number) => {
    const bytes = new Uint8Array(count);
    memory.read(iova, bytes);
    note(iova, bytes);
  };
  return {
    read(iova, target) {
      memory.read(iova, target);
      note(iova, target);
    },
    view(iova, length) {
      const view = memory.view(iova, length);
      if (view !== undefined) note(iova, view);
      return view;
    },
    readUint16BE(iova) {
      word(iova, 2);
      return memory.readUint16BE(iova);
    },
    readUint32BE(iova) {
      word(iova, 4);
      return memory.readUint32BE(iova);
    },
    readUint32LE(iova) {
      word(iova, 4);
      return memory.readUint32LE(iova);
    },
    write: (iova, source) => memory.write(iova, source),
    writableView: (iova, length) => memory.writableView(iova, length),
    writeUint32BE: (iova, value) => memory.writeUint32BE(iova, value),
    writeUint32LE: (iova, value) => memory.writeUint32LE(iova, value),
    writeUint8: (iova, value) => memory.writeUint8(iova, value),
    accessible: (iova, length, prot) => memory.accessible(iova, length, prot),
    regions: () => memory.regions(),
  };
}
