import { randomBytes } from 'node:crypto';
import { linkSync, lstatSync, type Stats, unlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { errno, notOursHint } from '../errors.ts';
import { shorterFolderHint } from '../temporary-folder.ts';
import { check, PosixError } from './errno.ts';
import { checkPath, ioctl } from './files.ts';
import {
  AF_UNIX,
  FIONREAD,
  longestSocketPath,
  SHUT_RDWR,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOL_SOCKET,
  sockaddrUn,
  socketOption,
  socketType,
  timespec,
} from './layout.ts';
import { lastErrno, libc } from './libc.ts';
import { putWord, rawArea } from './raw.ts';

// These never travel on the wire, hence not in src/errors.ts.
const { ECONNREFUSED, ECONNABORTED, ENOTDIR, EROFS } = constants.errno;

/** `stream`: a byte stream. `seqpacket`: connected, ordered datagrams. */
export type SocketType = keyof typeof socketType;

const address = rawArea(sockaddrUn.size);
const pair = rawArea(8);
const option = rawArea(timespec.size);

/** Nobody but the owner may connect: whoever can reaches guest memory. */
const SOCKET_MODE = 0o600;

/** Fills `address`; returns its length. */
function putAddress(path: string, call: string): number {
  checkPath(path, call);
  const length = Buffer.byteLength(path);
  if (length > longestSocketPath)
    throw new PosixError(
      `${call} ${path}`,
      errno.EINVAL,
      `a socket path has at most ${longestSocketPath} bytes, this one ${length}: ${shorterFolderHint(path)}`,
    );
  address.bytes.fill(0);
  address.bytes.writeUInt16LE(AF_UNIX, sockaddrUn.family);
  address.bytes.write(path, sockaddrUn.path);
  return sockaddrUn.path + length + 1;
}

function unixSocket(type: SocketType, flags: number): number {
  return check(libc.socket(AF_UNIX, socketType[type] | SOCK_CLOEXEC | flags, 0), 'socket');
}

/** Runs `use` with a new socket, which is closed again when that throws. */
function withSocket(type: SocketType, flags: number, use: (fd: number) => void): number {
  const fd = unixSocket(type, flags);
  try {
    use(fd);
  } catch (error) {
    libc.close(fd);
    throw error;
  }
  return fd;
}

/** What lies at `path`, if anything does. */
function lookAt(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    const number = -((error as NodeJS.ErrnoException).errno ?? -errno.EIO);
    throw new PosixError(`listen on ${path}`, number, placeHint(dirname(path), number));
  }
}

/** Removes a socket file that nobody listens on. What else lies there is left alone and refused. */
function removeStale(path: string, type: SocketType): void {
  const found = lookAt(path);
  if (found === undefined) return;
  if (!found.isSocket())
    throw new PosixError(
      `listen on ${path}`,
      errno.EADDRINUSE,
      'a file that is no socket is there: choose another path',
    );
  const length = putAddress(path, 'connect');
  const probe = unixSocket(type, SOCK_NONBLOCK);
  const error = libc.connect(probe, address.address, length) === -1 ? lastErrno() : 0;
  libc.close(probe);
  if (error === errno.EACCES)
    throw new PosixError(
      `listen on ${path}`,
      errno.EADDRINUSE,
      "a socket of another user's is there: choose another path, or have its owner remove it",
    );
  if (error !== ECONNREFUSED)
    throw new PosixError(
      `listen on ${path}`,
      errno.EADDRINUSE,
      'another process listens there: stop it or choose another path',
    );
  unlinkSync(path);
}

/** What to do when no socket can be made in `directory`. */
function placeHint(directory: string, error: number): string | undefined {
  if (error === errno.ENOENT) return `there is no directory ${directory}: make it, or choose another path`;
  if (error === ENOTDIR) return `${directory} is no directory: choose another path`;
  if (error === errno.EACCES || error === EROFS)
    return `you may not make files in ${directory}: choose another directory, or change its permissions`;
  return undefined;
}

/** Gives what is called `from` the name `path` as well. Never replaces what is there. */
function addName(from: string, path: string): void {
  try {
    linkSync(from, path);
  } catch (error) {
    throw new PosixError(`listen on ${path}`, -((error as NodeJS.ErrnoException).errno ?? -errno.EIO));
  }
}

/**
 * A non-blocking socket that listens at `path`, mode 0600 from the moment it exists, and can be connected to from
 * that moment on: it gets its name when it listens already, as some clients wait for the file and then try
 * once. A socket file left behind by a dead process is replaced.
 *
 * @throws PosixError EADDRINUSE when somebody listens there, or something else than a socket is there
 */
export function listenUnix(path: string, options: { type?: SocketType; backlog?: number } = {}): number {
  const type = options.type ?? 'stream';
  checkPath(path, 'listen');
  removeStale(path, type);
  return withSocket(type, SOCK_NONBLOCK, (fd) => {
    // On Linux the file inherits the socket's mode; unlike a umask this touches no other thread.
    check(libc.fchmod(fd, SOCKET_MODE), 'fchmod');
    const length = putAddress(path, 'listen');
    const temporary = join(dirname(path), `.${randomBytes(4).toString('hex')}`);
    // In a deep directory the temporary name may be too long where the path is not: then it is named first.
    const early = Buffer.byteLength(temporary) > longestSocketPath;
    const bound = early ? length : putAddress(temporary, 'listen');
    if (libc.bind(fd, address.address, bound) === -1) {
      const error = lastErrno();
      throw new PosixError(`listen on ${path}`, error, placeHint(dirname(path), error));
    }
    try {
      check(libc.listen(fd, options.backlog ?? 16), `listen on ${path}`);
      if (!early) addName(temporary, path);
    } finally {
      if (!early) unlinkSync(temporary);
    }
  });
}

/** The next connection of a listening socket, or undefined when none waits. The new descriptor is blocking. */
export function acceptUnix(listenFd: number): number | undefined {
  const fd = libc.accept4(listenFd, 0, 0, SOCK_CLOEXEC);
  if (fd !== -1) return fd;
  const error = lastErrno();
  if (error === errno.EAGAIN || error === errno.EINTR || error === ECONNABORTED) return undefined;
  throw new PosixError(`accept ${listenFd}`, error);
}

/**
 * Connects to a listening socket. The descriptor is blocking; `recvMessage` and `sendMessage` choose per call.
 * @param options.nonBlocking does not wait where as many wait to be accepted as may (EAGAIN); the descriptor is non-blocking then
 */
export function connectUnix(
  path: string,
  type: SocketType = 'stream',
  options: { readonly nonBlocking?: boolean } = {},
): number {
  return withSocket(type, options.nonBlocking === true ? SOCK_NONBLOCK : 0, (fd) => {
    const length = putAddress(path, 'connect');
    if (libc.connect(fd, address.address, length) === 0) return;
    const error = lastErrno();
    throw new PosixError(`connect ${path}`, error, error === errno.EACCES ? notOursHint : undefined);
  });
}

/** Two sockets connected to each other. */
export function socketPair(type: SocketType = 'stream'): [number, number] {
  check(libc.socketpair(AF_UNIX, socketType[type] | SOCK_CLOEXEC, 0, pair.address), 'socketpair');
  return [pair.bytes.readInt32LE(0), pair.bytes.readInt32LE(4)];
}

/** Bounds every waiting `recvMessage` and `sendMessage` of this socket, which then return -EAGAIN; 0: no bound. */
export function setSocketTimeout(fd: number, timeoutMs: number): void {
  putWord(option.bytes, timespec.sec, Math.floor(timeoutMs / 1000));
  // struct timeval: microseconds in the second word.
  putWord(option.bytes, timespec.nsec, Math.floor((timeoutMs % 1000) * 1000));
  for (const name of [socketOption.SO_RCVTIMEO, socketOption.SO_SNDTIMEO])
    check(libc.setsockopt(fd, SOL_SOCKET, name, option.address, timespec.size), `setsockopt ${fd}`);
}

/** Asks for buffers of `bytes` in both directions; the kernel caps that at net.core.[rw]mem_max. */
export function setSocketBuffers(fd: number, bytes: number): void {
  option.bytes.writeInt32LE(bytes, 0);
  for (const name of [socketOption.SO_RCVBUF, socketOption.SO_SNDBUF])
    check(libc.setsockopt(fd, SOL_SOCKET, name, option.address, 4), `setsockopt ${fd}`);
}

/** Ends both directions of a connected socket; the descriptor stays open. */
export function shutdownSocket(fd: number): void {
  // ENOTCONN: the peer was faster.
  libc.shutdown(fd, SHUT_RDWR);
}

const waiting = Buffer.alloc(4);

/** Bytes that wait in a stream socket. */
export function bytesWaiting(fd: number): number {
  ioctl(fd, FIONREAD, waiting);
  return waiting.readInt32LE(0);
}
