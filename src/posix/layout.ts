/**
 * Layouts and constants of Linux's C interface on 64-bit machines. x86-64 and arm64 share all of them but
 * `struct epoll_event`. Offsets and sizes in bytes.
 */

/** `struct msghdr` (POSIX sys/socket.h, glibc bits/socket.h). */
export const msghdr = {
  name: 0,
  iov: 16,
  iovlen: 24,
  control: 32,
  controllen: 40,
  flags: 48,
  size: 56,
} as const;

/** `struct iovec` (sys/uio.h). */
export const iovec = { base: 0, len: 8, size: 16 } as const;

/** `struct cmsghdr` (sys/socket.h); data follows, and the next header is 8-byte aligned. */
export const cmsghdr = { len: 0, level: 8, type: 12, size: 16, align: 8 } as const;

/** Most descriptors in one SCM_RIGHTS message (`SCM_MAX_FD`, net/scm.h). */
export const SCM_MAX_FD = 253;

/** `struct pollfd` (poll.h). */
export const pollfd = { fd: 0, events: 4, revents: 6, size: 8 } as const;

/** `struct epoll_event` (sys/epoll.h): packed on x86-64 only. */
export const epollEvent =
  process.arch === 'x64'
    ? ({ events: 0, data: 4, size: 12 } as const)
    : ({ events: 0, data: 8, size: 16 } as const);

/** `struct timespec`, `struct timeval`: two 64-bit integers. */
export const timespec = { sec: 0, nsec: 8, size: 16 } as const;

/** `struct sockaddr_un` (sys/un.h). */
export const sockaddrUn = { family: 0, path: 2, pathSize: 108, size: 110 } as const;
/** Bytes of the longest path that a socket may have: a zero ends it. */
export const longestSocketPath = sockaddrUn.pathSize - 1;

export const AF_UNIX = 1;
export const SOL_SOCKET = 1;
export const SCM_RIGHTS = 1;
export const socketOption = { SO_SNDBUF: 7, SO_RCVBUF: 8, SO_RCVTIMEO: 20, SO_SNDTIMEO: 21 } as const;
export const socketType = { stream: 1, seqpacket: 5 } as const;
export const SOCK_CLOEXEC = 0o2000000;
export const SOCK_NONBLOCK = 0o4000;

export const msgFlag = {
  PEEK: 0x2,
  CTRUNC: 0x8,
  TRUNC: 0x20,
  DONTWAIT: 0x40,
  NOSIGNAL: 0x4000,
  CMSG_CLOEXEC: 0x40000000,
} as const;

export const openFlag = {
  RDONLY: 0,
  RDWR: 2,
  PATH: 0o10000000,
  TRUNC: 0o1000,
  NONBLOCK: 0o4000,
  CLOEXEC: 0o2000000,
} as const;

export const mmapProt = { NONE: 0, READ: 1, WRITE: 2 } as const;
export const mmapFlag = { SHARED: 1, PRIVATE: 2, FIXED: 0x10, ANONYMOUS: 0x20, NORESERVE: 0x4000 } as const;

export const EFD_CLOEXEC = 0o2000000;
export const EFD_NONBLOCK = 0o4000;

export const TFD_CLOEXEC = 0o2000000;
export const TFD_NONBLOCK = 0o4000;

/** `whence` of lseek for files with holes. */
export const seek = { DATA: 3, HOLE: 4 } as const;
export const MFD_CLOEXEC = 1;
export const MFD_ALLOW_SEALING = 2;
/** `SHUT_RDWR` (sys/socket.h). */
export const SHUT_RDWR = 2;
/** `FIONREAD` (asm-generic/ioctls.h). */
export const FIONREAD = 0x541b;
export const fcntlCommand = { DUPFD_CLOEXEC: 1030, GETFL: 3, ADD_SEALS: 1033, GET_SEALS: 1034 } as const;
export const seal = { SEAL: 1, SHRINK: 2, GROW: 4 } as const;

export const pollEvent = { IN: 1, OUT: 4, ERR: 8, HUP: 0x10, NVAL: 0x20 } as const;
export const epollBit = { IN: 1, OUT: 4, ERR: 8, HUP: 0x10, RDHUP: 0x2000 } as const;
export const epollOperation = { ADD: 1, DEL: 2, MOD: 3 } as const;
export const EPOLL_CLOEXEC = 0o2000000;

/** Base page size that alignment rules use. Kernels with larger pages refuse what does not suit them (EINVAL). */
export const PAGE_SIZE = 4096;
