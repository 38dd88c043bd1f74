import { fstatSync } from 'node:fs';
import { errno, RequestError } from '../errors.ts';
import { MappedMemory, mmapProt, WINDOW_SIZE } from '../posix/index.ts';

/** Most windows in use at a time: 1 TiB of guest memory. Each costs a garbage collection when it is made. */
const MAX_WINDOWS = 1024;

/** What a descriptor of a DMA mapping stands for. */
export interface SharedFile {
  readonly fd: number;
  /** Same file, same identity, whatever descriptor it comes by; true for as long as a window of it lives. */
  readonly identity: string;
  readonly size: number;
}

/** @throws RequestError EBADF */
export function identify(fd: number): SharedFile {
  try {
    const { dev, ino, size } = fstatSync(fd, { bigint: true });
    return { fd, identity: `${dev}:${ino}`, size: Number(size) };
  } catch (error) {
    throw new RequestError(errno.EBADF, `descriptor ${fd} of a DMA mapping is not open`, { cause: error });
  }
}

/** A gigabyte of a file, from a multiple of that on; less at the end of the file. */
export interface FileWindow {
  readonly bytes: Buffer;
}

interface SharedWindow extends FileWindow {
  readonly key: string;
  readonly identity: string;
  readonly memory: MappedMemory;
  users: number;
}

/**
 * Maps files window by window, each once however many regions lie in it. A VM's regions are mostly slices of
 * one file, which firmware moves about; and V8 takes each gigabyte of foreign memory that it is shown for
 * garbage piling up, and collects (2 ms with a small heap). So slices share windows.
 */
export class FileWindows {
  /** The longest known window by file, permission and index. */
  readonly #windows = new Map<string, SharedWindow>();
  /** Without users: maybe still seen through a view, maybe wanted again in a moment. */
  readonly #unused = new Set<SharedWindow>();
  /** Users of any window, by file. */
  readonly #users = new Map<string, number>();
  #count = 0;
  readonly #max: number;

  /** @param max most windows in use; as many may wait for `collect` beside them */
  constructor(max = MAX_WINDOWS) {
    this.#max = max;
  }

  /**
   * Throws RequestError ENOSPC if the windows over bytes `[offset, end)` of the file would be too many: asked before the
   * first is acquired, for making a thousand to give them back takes seconds.
   */
  checkRoom(file: SharedFile, offset: number, end: number, writable: boolean): void {
    const first = windowStart(offset);
    if (end - first > this.#max * WINDOW_SIZE) throw this.#noRoom();
    let fresh = 0;
    let revived = 0;
    for (let start = first; start < end; start += WINDOW_SIZE) {
      const known = this.#known(file, start, Math.min(end - start, WINDOW_SIZE), writable);
      if (known === undefined) fresh += 1;
      else if (known.users === 0) revived += 1;
    }
    const used = this.#count - this.#unused.size;
    // What is unused can't be unmapped here, below device code that may look at it.
    if (used + revived + fresh > this.#max || this.#count + fresh > 2 * this.#max) throw this.#noRoom();
  }

  /**
   * The window that holds byte `offset` of the file, to be given back with `release`. See `checkRoom`.
   *
   * @param end how far it is needed at least, an offset in the file that exists
   * @throws PosixError of mmap
   */
  acquire(file: SharedFile, offset: number, end: number, writable: boolean): FileWindow {
    const start = windowStart(offset);
    const needed = Math.min(end - start, WINDOW_SIZE);
    const window = this.#known(file, start, needed, writable) ?? this.#map(file, start, writable);
    this.#use(window, 1);
    this.#unused.delete(window);
    return window;
  }

  release(window: FileWindow): void {
    const shared = window as SharedWindow;
    this.#use(shared, -1);
    if (shared.users === 0) this.#unused.add(shared);
  }

  /**
   * Unmaps what has no users. A file that other windows hold in memory anyway keeps its windows while there is room:
   * firmware takes away a region and maps most of it again a moment later.
   */
  collect(): void {
    for (const window of this.#unused) if (!this.#users.has(window.identity)) this.#unmap(window);
    // The longest unused first.
    for (const window of this.#unused) {
      if (this.#count <= this.#max) break;
      this.#unmap(window);
    }
  }

  #unmap(window: SharedWindow): void {
    if (this.#windows.get(window.key) === window) this.#windows.delete(window.key);
    window.memory.unmap();
    this.#unused.delete(window);
    this.#count -= 1;
  }

  #noRoom(): RequestError {
    return new RequestError(errno.ENOSPC, `DMA mappings of more than ${this.#max} GiB`);
  }

  /**
   * A window that will do. A writable one serves readers, too, whose permission is checked at each access: firmware and the
   * load of a migration turn memory read-only piece by piece, and a window costs milliseconds.
   */
  #known(file: SharedFile, start: number, needed: number, writable: boolean): SharedWindow | undefined {
    for (const able of writable ? [true] : [true, false]) {
      const known = this.#windows.get(keyOf(file, start, able));
      // The file may have grown since.
      if (known !== undefined && known.bytes.length >= needed) return known;
    }
    return undefined;
  }

  #use(window: SharedWindow, by: 1 | -1): void {
    window.users += by;
    const users = (this.#users.get(window.identity) ?? 0) + by;
    if (users === 0) this.#users.delete(window.identity);
    else this.#users.set(window.identity, users);
  }

  #map(file: SharedFile, start: number, writable: boolean): SharedWindow {
    // Readable whenever it is writable: processors have no other kind of page.
    const prot = writable ? mmapProt.READ | mmapProt.WRITE : mmapProt.READ;
    const memory = MappedMemory.map(file.fd, start, Math.min(file.size - start, WINDOW_SIZE), prot);
    const { identity } = file;
    const key = keyOf(file, start, writable);
    const window = { key, identity, memory, bytes: memory.windows[0] ?? Buffer.alloc(0), users: 0 };
    this.#windows.set(key, window);
    this.#count += 1;
    return window;
  }
}

function windowStart(offset: number): number {
  return offset - (offset % WINDOW_SIZE);
}

function keyOf(file: SharedFile, start: number, writable: boolean): string {
  return `${file.identity}:${start}:${writable}`;
}
