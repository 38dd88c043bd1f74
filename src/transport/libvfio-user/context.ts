import { rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { errno } from '../../errors.ts';
import {
  closeFd,
  connectUnix,
  open,
  openFlag,
  PosixError,
  rawArea,
  recvMessage,
  replaceFd,
  sendMessage,
} from '../../posix/index.ts';
import { lastErrno, libc } from '../../posix/libc.ts';
import { getWord, putWord } from '../../posix/raw.ts';
import { temporaryFolder } from '../../temporary-folder.ts';
import { pciIrq, pciRegion } from '../../vfio-user/constants.ts';
import type { MmapArea, ServedDevice } from '../served-device.ts';
import { CallbackSet } from './callbacks.ts';
import { callFailed, LibvfioUserError } from './errors.ts';
import * as l from './layout.ts';
import type { VfuLibrary } from './library.ts';

/** What the library asks of the device. What these throw becomes -1 and an errno; see `failed`. */
export interface ContextHandlers {
  /** `buffer` is the address of `count` bytes in C. */
  regionAccess(region: number, buffer: number, count: number, offset: number, write: boolean): void;
  reset(kind: number): void;
  dmaRegistered(iova: number, length: number, prot: number, mapped: boolean): void;
  dmaUnregistered(iova: number, length: number): void;
  /** To a state of vfio.h's `vfio_device_mig_state`. */
  transition(state: number): void;
  /** Fills up to `count` bytes at `buffer`; returns how many. */
  readState(buffer: number, count: number): number;
  writeState(buffer: number, count: number): void;
  log(level: number, message: string): void;
  /** A handler threw; returns the errno for the library. */
  failed(error: unknown): number;
}

/** What the library answered to VERSION. */
export interface Greeting {
  readonly attached: boolean;
  /** The reply, for the client. */
  readonly reply: Buffer;
}

const maxGreetingReply = 64 * 1024;
const wordSize = 8;
const iovecSize = 2 * wordSize;
const protWrite = 2;
/** Configuration space: where a BAR says that it decodes I/O ports (PCI 3.0, 6.2.5.1). */
const firstBar = 0x10;
const ioBar = 1;

/**
 * One `vfu_ctx_t`, set up for one device. It listens nowhere that anybody could find: clients come to the
 * server's own socket, and their connection is put in the place of one that the library accepted from here. So
 * a client that connects and says nothing can't stop the device loop inside `vfu_attach_ctx`, which waits.
 */
export class VfuContext {
  readonly #library: VfuLibrary;
  readonly #handlers: ContextHandlers;
  readonly #callbacks: CallbackSet;
  readonly #context: number;
  readonly #sgl: { readonly bytes: Buffer; readonly address: number };
  readonly #info = rawArea(l.dmaInfo.size);
  /** Holds the library's listening socket after its file is gone. */
  readonly #door: number;
  #destroyed = false;

  /** @param logLevel a syslog(3) level: what the library need not even format */
  constructor(library: VfuLibrary, device: ServedDevice, handlers: ContextHandlers, logLevel: number) {
    this.#library = library;
    this.#handlers = handlers;
    this.#callbacks = new CallbackSet((error) => handlers.failed(error));
    this.#sgl = rawArea(library.sgSize());
    const { context, door } = this.#create();
    this.#context = context;
    this.#door = door;
    try {
      this.#setUp(device, logLevel);
    } catch (error) {
      this.destroy();
      throw error;
    }
  }

  /**
   * Serves the next message; returns how many were served (0 or 1), or the negative errno of `vfu_run_ctx`.
   * Calls the handlers before it returns.
   */
  run(): number {
    const result = this.#library.run(this.#context);
    return result < 0 ? -lastErrno() : result;
  }

  /**
   * Has the library negotiate with the client on `fd` and serve it from then on. Throws PosixError EAGAIN when the library
   * has not accepted whom it got before.
   *
   * @param version the client's first message, whole
   * @param fds descriptors that came with it; they stay the caller's
   */
  attach(fd: number, version: Buffer, fds: readonly number[]): Greeting {
    const peer = connectUnix(`/proc/self/fd/${this.#door}`, 'stream', { nonBlocking: true });
    try {
      sendMessage(peer, version, version.length, undefined, fds, true);
      const attached = this.#library.attach(this.#context) === 0;
      const reply = receiveReply(peer);
      if (attached) replaceFd(fd, this.#library.pollFd(this.#context));
      return { attached, reply };
    } finally {
      closeFd(peer);
    }
  }

  /** Notes a write of the device in the library's own dirty log. The range must be in one mapped region. */
  markDirty(iova: number, length: number): void {
    const { address } = this.#sgl;
    if (this.#library.addressToSgl(this.#context, iova, length, address, 1, protWrite) === 1)
      this.#library.sglMarkDirty(this.#context, address, 1);
  }

  /** Ends the connection (with the callbacks that belong to it) and frees everything. */
  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#library.destroy(this.#context);
    this.#callbacks.release();
    closeFd(this.#door);
  }

  #create(): { context: number; door: number } {
    const directory = temporaryFolder('vfu-');
    const path = join(directory, 's');
    try {
      const flags = l.attachNonBlocking;
      const context = this.#library.createContext(l.transportSocket, path, flags, 0, l.deviceTypePci);
      if (context === 0) throw callFailed('vfu_create_ctx', lastErrno());
      const door = open(path, openFlag.PATH);
      unlinkSync(path);
      return { context, door };
    } finally {
      rmdirSync(directory);
    }
  }

  #check(call: string, result: number, hint?: string): void {
    if (result < 0) throw callFailed(call, lastErrno(), hint);
  }

  #setUp(device: ServedDevice, logLevel: number): void {
    const library = this.#library;
    const context = this.#context;
    const callbacks = this.#callbacks;
    const handlers = this.#handlers;
    const log = callbacks.add<[number, string]>('log', (level, text) => {
      handlers.log(level, text);
      return 0;
    });
    this.#check('vfu_setup_log', library.setupLog(context, log, logLevel));
    this.#setUpConfig(device);
    for (let index = 0; index < pciRegion.count; index++) this.#setUpRegion(device, index);
    for (let index = 0; index < pciIrq.count; index++) {
      const { count } = device.irqInfo(index);
      this.#check('vfu_setup_device_nr_irqs', library.setupIrqCount(context, index, count));
    }
    const reset = callbacks.add<[number]>('reset', (kind) => {
      handlers.reset(kind);
      return 0;
    });
    this.#check('vfu_setup_device_reset_cb', library.setupReset(context, reset));
    // The device runs on this thread only, so it is quiet whenever the library runs.
    library.setupQuiesce(
      context,
      callbacks.add('quiesce', () => 0),
    );
    this.#setUpDma();
    if (device.migration !== undefined && library.generation === 'v2') this.#setUpMigration();
    this.#check('vfu_realize_ctx', library.realize(context));
  }

  /** The library's own copy of configuration space is never seen by a client; its size and identity are kept true. */
  #setUpConfig(device: ServedDevice): void {
    const { size } = device.regionInfo(pciRegion.config);
    const type = size > 256 ? l.pciType.express : l.pciType.conventional;
    this.#check('vfu_pci_init', this.#library.pciInit(this.#context, type, 0, 0));
    const header = Buffer.alloc(64);
    device.regionRead(pciRegion.config, 0, header.length, header, 0);
    const word = (at: number) => header.readUInt16LE(at);
    this.#library.pciSetId(this.#context, word(0), word(2), word(0x2c), word(0x2e));
  }

  #setUpRegion(device: ServedDevice, index: number): void {
    const { size, mmap } = device.regionInfo(index);
    if (size === 0) return;
    const callback = this.#callbacks.add<[number, number, number, boolean]>(
      'region',
      (buffer, count, offset, write) => {
        this.#handlers.regionAccess(index, buffer, count, offset, write);
        return count;
      },
    );
    const areas = this.#areas(mmap?.areas ?? []);
    const list = areas.length === 0 ? undefined : rawArea(areas.length * iovecSize);
    for (const [i, area] of areas.entries()) {
      if (list === undefined) break;
      putWord(list.bytes, i * iovecSize, area.offset);
      putWord(list.bytes, i * iovecSize + wordSize, area.size);
    }
    const result = this.#library.setupRegion(
      this.#context,
      index,
      size,
      callback,
      this.#regionFlags(device, index),
      list?.address ?? 0,
      areas.length,
      mmap !== undefined && areas.length > 0 ? mmap.fd : -1,
      mmap?.fdOffset ?? 0,
    );
    this.#check(
      `vfu_setup_region of region ${index} (${size} bytes)`,
      result,
      'BARs have a power of two as size: at least 16 bytes of memory, or 4 I/O ports',
    );
  }

  /**
   * The 2022 library sends one descriptor for each area, which QEMU refuses when there is more than one: the
   * largest area is offered, accesses to the others are trapped.
   */
  #areas(areas: readonly MmapArea[]): readonly MmapArea[] {
    if (this.#library.generation === 'v2' || areas.length < 2) return areas;
    return [...areas].sort((a, b) => b.size - a.size).slice(0, 1);
  }

  #regionFlags(device: ServedDevice, index: number): number {
    if (index === pciRegion.config) return l.regionFlag.readWrite | l.regionFlag.alwaysCallback;
    if (index > pciRegion.bar5) return l.regionFlag.readWrite | l.regionFlag.memory;
    const register = Buffer.alloc(4);
    device.regionRead(pciRegion.config, firstBar + 4 * index, 4, register, 0);
    const isIo = (register.readUInt32LE(0) & ioBar) !== 0;
    return l.regionFlag.readWrite | (isIo ? 0 : l.regionFlag.memory);
  }

  #setUpDma(): void {
    const { bytes, address } = this.#info;
    const { iova, length, vaddr, prot, size } = l.dmaInfo;
    const handlers = this.#handlers;
    const load = (info: number) => void libc.memcpy(address, info, size);
    const range = () => {
      const start = getWord(bytes, iova);
      const count = getWord(bytes, length);
      if (!Number.isSafeInteger(start + count))
        throw new LibvfioUserError('a DMA region ends above 2^53', { errno: errno.EINVAL });
      return [start, count] as const;
    };
    const register = this.#callbacks.add<[number]>('dma', (info) => {
      load(info);
      handlers.dmaRegistered(...range(), bytes.readUInt32LE(prot), getWord(bytes, vaddr) !== 0);
      return 0;
    });
    const unregister = this.#callbacks.add<[number]>('dma', (info) => {
      load(info);
      handlers.dmaUnregistered(...range());
      return 0;
    });
    const result = this.#library.setupDma(this.#context, l.maxDmaRegions, register, unregister);
    this.#check('vfu_setup_device_dma', result);
  }

  #setUpMigration(): void {
    const handlers = this.#handlers;
    const layout = l.migrationCallbacks;
    const table = rawArea(layout.size);
    table.bytes.writeInt32LE(layout.currentVersion, layout.version);
    const transition = this.#callbacks.add<[number]>('transition', (state) => {
      handlers.transition(l.vfioStateOf[state] ?? 0);
      return 0;
    });
    const readData = this.#callbacks.add<[number, number]>('data', (buffer, count) =>
      handlers.readState(buffer, count),
    );
    const writeData = this.#callbacks.add<[number, number]>('data', (buffer, count) => {
      handlers.writeState(buffer, count);
      return count;
    });
    putWord(table.bytes, layout.transition, transition);
    putWord(table.bytes, layout.readData, readData);
    putWord(table.bytes, layout.writeData, writeData);
    // The library copies the table.
    const result = this.#library.setupMigration(this.#context, table.address);
    this.#check('vfu_setup_device_migration_callbacks', result);
  }
}

/** What is there; nothing, when the library hung up without an answer. */
function receiveReply(peer: number): Buffer {
  const reply = Buffer.alloc(maxGreetingReply);
  const fds: number[] = [];
  try {
    const length = recvMessage(peer, reply, 0, reply.length, fds, false);
    return reply.subarray(0, Math.max(0, length));
  } catch (error) {
    if (!(error instanceof PosixError)) throw error;
    return reply.subarray(0, 0);
  } finally {
    for (const fd of fds) closeFd(fd);
  }
}
