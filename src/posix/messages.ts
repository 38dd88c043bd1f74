import { errno } from '../errors.ts';
import { PosixError } from './errno.ts';
import { checkRange } from './files.ts';
import { cmsghdr, iovec, msgFlag, msghdr, SCM_MAX_FD, SCM_RIGHTS, SOL_SOCKET } from './layout.ts';
import { AddressCache, lastErrno, libc } from './libc.ts';
import { getWord, putWord, rawArea } from './raw.ts';

const FD_SIZE = 4;
const align = (length: number) => Math.ceil(length / cmsghdr.align) * cmsghdr.align;
const CONTROL_SIZE = cmsghdr.size + align(SCM_MAX_FD * FD_SIZE);

/** One msghdr with two iovecs and room for the largest SCM_RIGHTS, laid out once and used by every call. */
function messageArea() {
  const head = rawArea(msghdr.size);
  const vectors = rawArea(2 * iovec.size);
  const control = rawArea(CONTROL_SIZE);
  putWord(head.bytes, msghdr.iov, vectors.address);
  return { head: head.bytes, address: head.address, vectors: vectors.bytes, control };
}

const incoming = messageArea();
putWord(incoming.head, msghdr.iovlen, 1);
putWord(incoming.head, msghdr.control, incoming.control.address);
const outgoing = messageArea();

const targetAddress = new AddressCache();
const headerAddress = new AddressCache();
const payloadAddress = new AddressCache();

/**
 * Receives up to `length` bytes into `buffer` at `at`; descriptors that come along are pushed on `fds`,
 * close-on-exec, and are the caller's to close. On a seqpacket socket one call takes one datagram.
 *
 * @param wait sleep until something is there (needs a blocking descriptor, as all sockets of this room are);
 *   a `setSocketTimeout` ends the sleep
 * @returns bytes received; 0 at the end of the stream; -EAGAIN when nothing is there
 * @throws PosixError ECONNRESET and the like; EMSGSIZE for a datagram longer than `length`; EPROTO when
 *   descriptors were lost because this process may not open more
 */
export function recvMessage(
  fd: number,
  buffer: Buffer,
  at: number,
  length: number,
  fds: number[],
  wait: boolean,
): number {
  return receive(fd, buffer, at, length, fds, wait ? 0 : msgFlag.DONTWAIT);
}

/**
 * As `recvMessage` without waiting, but what is received stays in the socket: the descriptors are copies, the
 * caller's to close.
 */
export function peekMessage(fd: number, buffer: Buffer, at: number, length: number, fds: number[]): number {
  return receive(fd, buffer, at, length, fds, msgFlag.DONTWAIT | msgFlag.PEEK);
}

function receive(fd: number, buffer: Buffer, at: number, length: number, fds: number[], how: number): number {
  checkRange(buffer, at, length);
  putWord(incoming.vectors, iovec.base, targetAddress.of(buffer) + at);
  putWord(incoming.vectors, iovec.len, length);
  const flags = how | msgFlag.CMSG_CLOEXEC;
  let received: number;
  do {
    // The kernel wrote the length that it used.
    incoming.head.writeUInt32LE(CONTROL_SIZE, msghdr.controllen);
    received = libc.recvmsg(fd, incoming.address, flags);
  } while (received === -1 && interrupted());
  if (received === -1) return failed('recv', fd);
  const known = fds.length;
  if (getWord(incoming.head, msghdr.controllen) !== 0) takeDescriptors(fds);
  const problems = incoming.head.readUInt32LE(msghdr.flags);
  if ((problems & (msgFlag.CTRUNC | msgFlag.TRUNC)) !== 0) refuse(fd, fds, known, problems);
  return received;
}

/** As `recvMessage` on a stream whose peer sends no descriptors; any that come are closed by the kernel. */
export function recvBytes(fd: number, buffer: Buffer, at: number, length: number, wait: boolean): number {
  return receivePlain(fd, buffer, at, length, wait ? 0 : msgFlag.DONTWAIT);
}

/** Looks at bytes without taking them, nor the descriptors that came with them. Never waits; as `recvBytes`. */
export function peekBytes(fd: number, buffer: Buffer, at: number, length: number): number {
  return receivePlain(fd, buffer, at, length, msgFlag.DONTWAIT | msgFlag.PEEK);
}

function receivePlain(fd: number, buffer: Buffer, at: number, length: number, flags: number): number {
  checkRange(buffer, at, length);
  const target = targetAddress.of(buffer) + at;
  let received: number;
  do received = libc.recv(fd, target, length, flags);
  while (received === -1 && interrupted());
  return received === -1 ? failed('recv', fd) : received;
}

/**
 * Sends the first `headerLength` bytes of `header`, then `payload`, gathered without a copy, with `fds`
 * (which stay the caller's) attached to the first byte. Never raises SIGPIPE.
 *
 * @param wait sleep until everything is sent
 * @returns bytes sent, fewer than everything only if not waiting on a stream (then the descriptors have gone
 *   with them); -EAGAIN when nothing could be sent
 * @throws PosixError EPIPE, ECONNRESET, EMSGSIZE (datagram too long), EINVAL (more than 253 descriptors)
 */
export function sendMessage(
  fd: number,
  header: Buffer,
  headerLength: number,
  payload: Uint8Array | undefined,
  fds: readonly number[] | undefined,
  wait: boolean,
): number {
  checkRange(header, 0, headerLength);
  const payloadLength = payload?.length ?? 0;
  const start = headerAddress.of(header);
  const flags = wait ? msgFlag.NOSIGNAL : msgFlag.NOSIGNAL | msgFlag.DONTWAIT;
  const plain = payloadLength === 0 && (fds === undefined || fds.length === 0);
  if (!plain) layOut(start, headerLength, payload, fds);
  let sent: number;
  do {
    sent = plain ? libc.send(fd, start, headerLength, flags) : libc.sendmsg(fd, outgoing.address, flags);
  } while (sent === -1 && interrupted());
  if (sent === -1) return failed('send', fd);
  const total = headerLength + payloadLength;
  if (wait && sent < total) return sendRest(fd, header.subarray(0, headerLength), payload, sent);
  return sent;
}

/** A signal cut a waiting send short: goes on behind the `sent` bytes. */
function sendRest(fd: number, header: Buffer, payload: Uint8Array | undefined, sent: number): number {
  const skipped = Math.min(sent, header.length);
  const tail = payload?.subarray(sent - skipped);
  const rest = header.subarray(skipped);
  const more = sendMessage(fd, rest, rest.length, tail, undefined, true);
  return more < 0 ? sent : sent + more;
}

function layOut(
  start: number,
  headerLength: number,
  payload: Uint8Array | undefined,
  fds: readonly number[] | undefined,
): void {
  const { head, vectors } = outgoing;
  putWord(vectors, iovec.base, start);
  putWord(vectors, iovec.len, headerLength);
  const hasPayload = payload !== undefined && payload.length > 0;
  if (hasPayload) {
    putWord(vectors, iovec.size + iovec.base, payloadAddress.of(payload));
    putWord(vectors, iovec.size + iovec.len, payload.length);
  }
  putWord(head, msghdr.iovlen, hasPayload ? 2 : 1);
  const count = fds?.length ?? 0;
  if (fds === undefined || count === 0) {
    putWord(head, msghdr.control, 0);
    putWord(head, msghdr.controllen, 0);
    return;
  }
  if (count > SCM_MAX_FD) throw new PosixError(`send ${count} descriptors`, errno.EINVAL);
  const control = outgoing.control.bytes;
  const length = cmsghdr.size + count * FD_SIZE;
  putWord(control, cmsghdr.len, length);
  control.writeInt32LE(SOL_SOCKET, cmsghdr.level);
  control.writeInt32LE(SCM_RIGHTS, cmsghdr.type);
  for (const [index, value] of fds.entries()) control.writeInt32LE(value, cmsghdr.size + index * FD_SIZE);
  putWord(head, msghdr.control, outgoing.control.address);
  putWord(head, msghdr.controllen, align(length));
}

/** Walks the control messages as CMSG_NXTHDR does. */
function takeDescriptors(fds: number[]): void {
  const control = incoming.control.bytes;
  const end = getWord(incoming.head, msghdr.controllen);
  let at = 0;
  while (at + cmsghdr.size <= end) {
    const length = getWord(control, at + cmsghdr.len);
    if (length < cmsghdr.size || at + length > end) return;
    if (
      control.readInt32LE(at + cmsghdr.level) === SOL_SOCKET &&
      control.readInt32LE(at + cmsghdr.type) === SCM_RIGHTS
    )
      for (let data = at + cmsghdr.size; data + FD_SIZE <= at + length; data += FD_SIZE)
        fds.push(control.readInt32LE(data));
    at += align(length);
  }
}

function refuse(fd: number, fds: number[], known: number, problems: number): never {
  for (const received of fds.splice(known)) libc.close(received);
  if ((problems & msgFlag.CTRUNC) !== 0)
    throw new PosixError(
      `recv ${fd}: descriptors lost`,
      errno.EPROTO,
      'raise the limit of open files (ulimit -n) of this process',
    );
  throw new PosixError(`recv ${fd}: datagram longer than the buffer`, errno.EMSGSIZE);
}

function interrupted(): boolean {
  return lastErrno() === errno.EINTR;
}

function failed(call: string, fd: number): number {
  const error = lastErrno();
  if (error === errno.EAGAIN) return -errno.EAGAIN;
  throw new PosixError(`${call} ${fd}`, error);
}
