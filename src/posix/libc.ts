import koffi from 'koffi';

/**
 * Every foreign function of this project. `koffi.load(null)` reaches libc and the libuv symbols that the
 * Node executable exports. Pointers are declared `uintptr_t` and travel as plain numbers: user addresses
 * on 64-bit Linux are below 2^52, and a number costs no allocation where a bigint does.
 */
const process_ = koffi.load(null);

/** A C function with integer arguments and an integer result; everything used here is of that kind. */
type Native<A extends (number | string)[]> = (...args: A) => number;

function bind<A extends (number | string)[]>(name: string, result: string, args: string[]): Native<A> {
  return process_.func(name, result, args) as unknown as Native<A>;
}

const pointer = 'uintptr_t';
const size = 'size_t';
const ssize = 'int64_t';
const offset = 'int64_t';

// Variadic functions (open, fcntl, ioctl) are declared with a fixed integer third argument: both calling
// conventions that we run on (SysV x86-64, AAPCS64) pass it in the same register either way.
export const libc = {
  open: bind<[path: string, flags: number, mode: number]>('open', 'int', ['str', 'int', 'uint']),
  close: bind<[fd: number]>('close', 'int', ['int']),
  read: bind<[fd: number, target: number, count: number]>('read', ssize, ['int', pointer, size]),
  write: bind<[fd: number, source: number, count: number]>('write', ssize, ['int', pointer, size]),
  lseek: bind<[fd: number, at: number, whence: number]>('lseek', offset, ['int', offset, 'int']),
  fcntl: bind<[fd: number, command: number, argument: number]>('fcntl', 'int', ['int', 'int', 'long']),
  ioctl: bind<[fd: number, request: number, argument: number]>('ioctl', 'int', ['int', 'ulong', pointer]),
  writev: bind<[fd: number, vectors: number, count: number]>('writev', ssize, ['int', pointer, 'int']),
  setns: bind<[fd: number, type: number]>('setns', 'int', ['int', 'int']),
  ftruncate: bind<[fd: number, length: number]>('ftruncate', 'int', ['int', offset]),
  flock: bind<[fd: number, operation: number]>('flock', 'int', ['int', 'int']),
  fchmod: bind<[fd: number, mode: number]>('fchmod', 'int', ['int', 'uint']),
  memfdCreate: bind<[name: string, flags: number]>('memfd_create', 'int', ['str', 'uint']),
  eventfd: bind<[initial: number, flags: number]>('eventfd', 'int', ['uint', 'int']),
  timerfdCreate: bind<[clock: number, flags: number]>('timerfd_create', 'int', ['int', 'int']),
  timerfdSettime: bind<[fd: number, flags: number, value: number, old: number]>('timerfd_settime', 'int', [
    'int',
    'int',
    pointer,
    pointer,
  ]),
  mmap: bind<[address: number, length: number, prot: number, flags: number, fd: number, offset: number]>(
    'mmap',
    'intptr_t',
    [pointer, size, 'int', 'int', 'int', offset],
  ),
  munmap: bind<[address: number, length: number]>('munmap', 'int', [pointer, size]),
  memcpy: bind<[target: number, source: number, count: number]>('memcpy', pointer, [pointer, pointer, size]),
  poll: bind<[fds: number, count: number, timeoutMs: number]>('poll', 'int', [pointer, 'ulong', 'int']),
  socket: bind<[domain: number, type: number, protocol: number]>('socket', 'int', ['int', 'int', 'int']),
  socketpair: bind<[domain: number, type: number, protocol: number, fds: number]>('socketpair', 'int', [
    'int',
    'int',
    'int',
    pointer,
  ]),
  bind: bind<[fd: number, address: number, length: number]>('bind', 'int', ['int', pointer, 'uint']),
  connect: bind<[fd: number, address: number, length: number]>('connect', 'int', ['int', pointer, 'uint']),
  listen: bind<[fd: number, backlog: number]>('listen', 'int', ['int', 'int']),
  accept4: bind<[fd: number, address: number, length: number, flags: number]>('accept4', 'int', [
    'int',
    pointer,
    pointer,
    'int',
  ]),
  setsockopt: bind<[fd: number, level: number, name: number, value: number, length: number]>(
    'setsockopt',
    'int',
    ['int', 'int', 'int', pointer, 'uint'],
  ),
  getsockopt: bind<[fd: number, level: number, name: number, value: number, length: number]>(
    'getsockopt',
    'int',
    ['int', 'int', 'int', pointer, pointer],
  ),
  getaddrinfo: bind<[host: string, service: string, hints: number, result: number]>('getaddrinfo', 'int', [
    'str',
    'str',
    pointer,
    pointer,
  ]),
  freeaddrinfo: bind<[list: number]>('freeaddrinfo', 'void', [pointer]),
  shutdown: bind<[fd: number, how: number]>('shutdown', 'int', ['int', 'int']),
  dup3: bind<[from: number, to: number, flags: number]>('dup3', 'int', ['int', 'int', 'int']),
  recv: bind<[fd: number, target: number, length: number, flags: number]>('recv', ssize, [
    'int',
    pointer,
    size,
    'int',
  ]),
  send: bind<[fd: number, source: number, length: number, flags: number]>('send', ssize, [
    'int',
    pointer,
    size,
    'int',
  ]),
  recvmsg: bind<[fd: number, message: number, flags: number]>('recvmsg', ssize, ['int', pointer, 'int']),
  sendmsg: bind<[fd: number, message: number, flags: number]>('sendmsg', ssize, ['int', pointer, 'int']),
  epollCreate1: bind<[flags: number]>('epoll_create1', 'int', ['int']),
  epollCtl: bind<[epoll: number, operation: number, fd: number, event: number]>('epoll_ctl', 'int', [
    'int',
    'int',
    'int',
    pointer,
  ]),
  epollWait: bind<[epoll: number, events: number, count: number, timeoutMs: number]>('epoll_wait', 'int', [
    'int',
    pointer,
    'int',
    'int',
  ]),
} as const;

/** epoll_pwait2 (Linux 5.11, glibc 2.35): a timeout in nanoseconds. Undefined where libc lacks it. */
export const epollPwait2:
  | Native<[epoll: number, events: number, count: number, timespec: number, sigmask: number]>
  | undefined = optional('epoll_pwait2', 'int', ['int', pointer, 'int', pointer, pointer]);

/** The part of libuv's API that its embedders use to drive a loop from outside (libuv "uv_loop_t" manual). */
export const libuv = {
  backendFd: bind<[loop: number]>('uv_backend_fd', 'int', ['intptr_t']),
  backendTimeout: bind<[loop: number]>('uv_backend_timeout', 'int', ['intptr_t']),
  updateTime: bind<[loop: number]>('uv_update_time', 'void', ['intptr_t']),
} as const;

/** The libuv loop of this thread, main or worker (Node-API `napi_get_uv_event_loop`). */
export function currentLoop(): number {
  const get = process_.func('napi_get_uv_event_loop', 'int', ['void *', pointer]);
  const result = Buffer.alloc(8);
  get(koffi.node.env, addressOf(result));
  return Number(result.readBigUInt64LE());
}

/** Has Node's loop call `callback` (in its poll phase) whenever `fd` is readable. Keeps the process alive. */
export function nodePoll(fd: number, callback: () => void): { close(): void } {
  return koffi.node.poll(fd, { readable: true }, callback);
}

function optional<A extends (number | string)[]>(name: string, result: string, args: string[]) {
  try {
    return bind<A>(name, result, args);
  } catch {
    return undefined;
  }
}

/** errno of the last failed call on this thread; read it before anything else happens. */
export function lastErrno(): number {
  return koffi.errno();
}

/** Address of the first byte of `bytes`. Stays true as long as its ArrayBuffer lives: backing stores don't move. */
export function addressOf(bytes: Uint8Array): number {
  return Number(koffi.address(bytes));
}

/** Foreign memory as bytes. The caller sees to it that the memory outlives every use of the result. */
export function viewOf(address: number, length: number): Buffer {
  return Buffer.from(koffi.view(address, length));
}

/**
 * Remembers the address of the ArrayBuffer that was asked for last. One per call site: the buffers used
 * there are nearly always parts of the same few arrays, and asking koffi costs more than the system call.
 */
export class AddressCache {
  #array: ArrayBufferLike | undefined;
  #address = 0;

  of(bytes: Uint8Array): number {
    const array = bytes.buffer;
    if (array !== this.#array) {
      this.#address = addressOf(bytes) - bytes.byteOffset;
      this.#array = array;
    }
    return this.#address + bytes.byteOffset;
  }
}
