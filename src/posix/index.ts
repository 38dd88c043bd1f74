/** The system calls that this project makes, and nothing above them. */
export { Epoll, pollFd } from './epoll.ts';
export { PosixError } from './errno.ts';
export { adoptEventfd, eventfdCreate, eventfdDrain, eventfdSignal } from './eventfd.ts';
export {
  closeFd,
  dupFd,
  fstatSize,
  ftruncate,
  ioctl,
  isSizeSealed,
  memfdCreate,
  nextData,
  open,
  read,
  replaceFd,
  sealSize,
  useTogether,
  write,
} from './files.ts';
export { sendArea, VectorList } from './gather.ts';
export {
  connectTcp,
  listenTcp,
  networkSocket,
  setKeepAlive,
  setNoDelay,
  socketError,
  unanswered,
} from './inet.ts';
export { longestSocketPath, mmapProt, openFlag, PAGE_SIZE } from './layout.ts';
export { MappedMemory, WINDOW_SIZE } from './memory.ts';
export { peekBytes, peekMessage, recvBytes, recvMessage, sendMessage } from './messages.ts';
export { inNetworkNamespace } from './namespace.ts';
export { type RawArea, rawArea } from './raw.ts';
export {
  acceptUnix,
  bytesWaiting,
  connectUnix,
  listenUnix,
  setSocketBuffers,
  setSocketTimeout,
  shutdownSocket,
  socketPair,
} from './sockets.ts';
export { TimerFd } from './timerfd.ts';
export { type NodeLoop, NodeTurn, nodeLoop } from './uv.ts';
