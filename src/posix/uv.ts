import { isMainThread } from 'node:worker_threads';
import { libuv } from './libc.ts';

/** Node's own event loop, seen from outside (libuv manual, "uv_backend_fd", "uv_backend_timeout"). */
export interface NodeLoop {
  /** Readable when Node's loop has I/O to handle (sockets, signals, messages, finished work). */
  readonly fd: number;
  /** Milliseconds until Node's next timer; 0 when something is due or an immediate waits, -1 for none. */
  timeout(): number;
}

/**
 * The loop of the main thread; undefined on a worker thread, whose loop libuv gives no way to find.
 */
export function nodeLoop(): NodeLoop | undefined {
  if (!isMainThread) return undefined;
  const loop = libuv.defaultLoop();
  const fd = libuv.backendFd(loop);
  if (fd < 0) return undefined;
  return {
    fd,
    timeout: () => {
      // The timeout is counted from the loop's cached time, which stands still while we have the thread.
      libuv.updateTime(loop);
      return libuv.backendTimeout(loop);
    },
  };
}
