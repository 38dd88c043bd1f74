import { constants } from 'node:os';
import { errno } from '../errors.ts';
import { check, PosixError } from './errno.ts';
import { SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, socketType } from './layout.ts';
import { lastErrno, libc } from './libc.ts';
import { getWord, rawArea } from './raw.ts';

const AF_INET = 2;
const SOCK_DGRAM = 2;

/** A socket for requests about network interfaces (netdevice(7)), in the thread's network namespace. */
export function networkSocket(): number {
  return check(libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket');
}

/** `struct addrinfo` (netdb.h), 64-bit; addrlen is followed by padding. */
const addrinfo = {
  flags: 0,
  family: 4,
  socktype: 8,
  protocol: 12,
  addrlen: 16,
  addr: 24,
  next: 40,
  size: 48,
} as const;
const AI_PASSIVE = 1;
/** `struct sockaddr_storage`. */
const ADDRESS_SIZE = 128;
const option = { SO_REUSEADDR: 2, SO_ERROR: 4, SO_KEEPALIVE: 9 } as const;
const IPPROTO_TCP = 6;
/** linux/tcp.h */
const tcpOption = {
  TCP_NODELAY: 1,
  TCP_KEEPIDLE: 4,
  TCP_KEEPINTVL: 5,
  TCP_KEEPCNT: 6,
  TCP_INFO: 11,
} as const;
/** The beginning of `struct tcp_info` (linux/tcp.h), a byte each. */
const tcpInfo = { retransmits: 2, probes: 3, size: 4 } as const;

const hints = rawArea(addrinfo.size);
const found = rawArea(addrinfo.size);
const pointer = rawArea(8);
const address = rawArea(ADDRESS_SIZE);
const integer = rawArea(4);
const integerLength = rawArea(4);

/** Resolves into `address` (the first answer); returns its length and family. May ask a name server. */
function resolve(host: string, port: number, passive: boolean): { length: number; family: number } {
  const what = `resolve ${host}:${port}`;
  if (host === '' || host.includes('\0') || !Number.isInteger(port) || port < 0 || port > 0xffff)
    throw new PosixError(what, errno.EINVAL);
  hints.bytes.fill(0);
  hints.bytes.writeInt32LE(passive ? AI_PASSIVE : 0, addrinfo.flags);
  hints.bytes.writeInt32LE(socketType.stream, addrinfo.socktype);
  const result = libc.getaddrinfo(host, String(port), hints.address, pointer.address);
  if (result !== 0)
    throw new PosixError(what, errno.ENOENT, 'no such host: check the name or use an address');
  const list = getWord(pointer.bytes, 0);
  try {
    libc.memcpy(found.address, list, addrinfo.size);
    const length = found.bytes.readUInt32LE(addrinfo.addrlen);
    if (length > ADDRESS_SIZE) throw new PosixError(what, errno.EINVAL);
    libc.memcpy(address.address, getWord(found.bytes, addrinfo.addr), length);
    return { length, family: found.bytes.readInt32LE(addrinfo.family) };
  } finally {
    libc.freeaddrinfo(list);
  }
}

function tcpSocket(
  host: string,
  port: number,
  passive: boolean,
  use: (fd: number, length: number) => void,
): number {
  const { length, family } = resolve(host, port, passive);
  const fd = check(libc.socket(family, socketType.stream | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), 'socket');
  try {
    use(fd, length);
  } catch (error) {
    libc.close(fd);
    throw error;
  }
  return fd;
}

function setInteger(fd: number, level: number, name: number, value: number): void {
  integer.bytes.writeInt32LE(value, 0);
  check(libc.setsockopt(fd, level, name, integer.address, 4), `setsockopt ${fd}`);
}

/** What to do about a port that can't be had. */
const placeHints: ReadonlyMap<number, string> = new Map([
  [errno.EACCES, 'this port is for root: choose one from 1024 on'],
  [errno.EADDRINUSE, 'another process listens there: stop it or choose another port'],
  [constants.errno.EADDRNOTAVAIL, 'this machine does not have that address'],
]);

/** A non-blocking socket that listens on a TCP port; `acceptUnix` takes its connections, too. */
export function listenTcp(host: string, port: number): number {
  return tcpSocket(host, port, true, (fd, length) => {
    setInteger(fd, SOL_SOCKET, option.SO_REUSEADDR, 1);
    if (libc.bind(fd, address.address, length) === -1) {
      const error = lastErrno();
      throw new PosixError(`bind ${host}:${port}`, error, placeHints.get(error));
    }
    check(libc.listen(fd, 1), `listen on ${host}:${port}`);
  });
}

/** Starts to connect; when the socket is writable, `socketError` tells how it went. */
export function connectTcp(host: string, port: number): number {
  return tcpSocket(host, port, false, (fd, length) => {
    if (libc.connect(fd, address.address, length) === 0) return;
    const error = lastErrno();
    if (error !== constants.errno.EINPROGRESS) throw new PosixError(`connect ${host}:${port}`, error);
  });
}

/** Small writes of a TCP socket leave at once, and don't wait until the peer has acknowledged what went before. */
export function setNoDelay(fd: number): void {
  setInteger(fd, IPPROTO_TCP, tcpOption.TCP_NODELAY, 1);
}

/** Has a silent peer asked whether it is there, after so many seconds; when it never answers the connection ends (ETIMEDOUT). */
export function setKeepAlive(fd: number, seconds: { idle: number; interval: number; count: number }): void {
  setInteger(fd, IPPROTO_TCP, tcpOption.TCP_KEEPIDLE, seconds.idle);
  setInteger(fd, IPPROTO_TCP, tcpOption.TCP_KEEPINTVL, seconds.interval);
  setInteger(fd, IPPROTO_TCP, tcpOption.TCP_KEEPCNT, seconds.count);
  setInteger(fd, SOL_SOCKET, option.SO_KEEPALIVE, 1);
}

/** How often in a row the peer of a TCP socket has not answered: data that was sent again, or a question whether it is there. */
export function unanswered(fd: number): number {
  integerLength.bytes.writeUInt32LE(tcpInfo.size, 0);
  check(
    libc.getsockopt(fd, IPPROTO_TCP, tcpOption.TCP_INFO, integer.address, integerLength.address),
    `getsockopt ${fd}`,
  );
  return integer.bytes.readUInt8(tcpInfo.retransmits) + integer.bytes.readUInt8(tcpInfo.probes);
}

/** The pending error of a socket (SO_ERROR), 0 for none; reading clears it. */
export function socketError(fd: number): number {
  integerLength.bytes.writeUInt32LE(4, 0);
  check(
    libc.getsockopt(fd, SOL_SOCKET, option.SO_ERROR, integer.address, integerLength.address),
    `getsockopt ${fd}`,
  );
  return integer.bytes.readInt32LE(0);
}
