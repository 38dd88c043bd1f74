import { eventfdCreate, eventfdDrain, eventfdSignal } from './eventfd.ts';
import { closeFd } from './files.ts';
import { currentLoop, libuv, nodePoll } from './libc.ts';

/** Node's own event loop on this thread, seen from outside (libuv manual, "uv_backend_fd"). */
export interface NodeLoop {
  /** Readable when Node's loop has I/O to handle (sockets, signals, messages, finished work). */
  readonly fd: number;
  /** Milliseconds until Node's next timer; 0 when something is due or an immediate waits, -1 for none. */
  timeout(): number;
}

/** The loop of this thread, main or worker. */
export function nodeLoop(): NodeLoop {
  const loop = currentLoop();
  return {
    fd: libuv.backendFd(loop),
    timeout: () => {
      // Counted from the loop's cached time, which stands still while we have the thread.
      libuv.updateTime(loop);
      return libuv.backendTimeout(loop);
    },
  };
}

/**
 * Runs a callback from the poll phase of Node's loop, once for each `schedule()`; in between, Node serves
 * everything of its own that is due. Not `setImmediate`, because inside an immediate the loop always
 * claims to have work, so that waiting outside it would be impossible. A turn takes about 3 µs.
 */
export class NodeTurn {
  readonly #event = eventfdCreate();
  readonly #handle: { close(): void };

  constructor(callback: () => void) {
    this.#handle = nodePoll(this.#event, () => {
      if (eventfdDrain(this.#event)) callback();
    });
  }

  schedule(): void {
    eventfdSignal(this.#event);
  }

  close(): void {
    this.#handle.close();
    closeFd(this.#event);
  }
}
