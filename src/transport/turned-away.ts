import { errno } from '../errors.ts';
import { type Reactor, ready, type Timer, type Watch } from '../loop/types.ts';
import { headerFlags } from '../vfio-user/constants.ts';
import { FramedSocket, frame } from '../vfio-user/framed-socket.ts';
import { readHeader, writeHeader } from '../vfio-user/messages.ts';
import { header } from '../vfio-user/structs.ts';

/** How long a client that is turned away may take to say what it wants. */
const patienceNs = 1e9;
/** More than a VERSION with all that is known of it. */
const maxMessage = 4096;

export interface TurnedAwayOptions {
  readonly fd: number;
  readonly reactor: Reactor;
  /** It has been told, or has gone. */
  readonly onEnd: (client: TurnedAway) => void;
}

/**
 * A client that comes while another one is served. It is answered EBUSY before it is let go: QEMU 11.1.3 aborts, with the guest of a VM that
 * it was to be plugged into, where a connection ends without an answer to its VERSION.
 */
export class TurnedAway {
  readonly #options: TurnedAwayOptions;
  readonly #socket: FramedSocket;
  readonly #watch: Watch;
  readonly #timer: Timer;

  constructor(options: TurnedAwayOptions) {
    const { fd, reactor } = options;
    this.#options = options;
    this.#socket = new FramedSocket(fd, { maxMessage, maxQueued: maxMessage });
    this.#watch = reactor.watch(fd, ready.read, () => this.#answer());
    this.#timer = reactor.timer(() => this.close());
    this.#timer.arm(patienceNs);
  }

  close(): void {
    this.#watch.close();
    this.#timer.close();
    this.#socket.release();
    this.#options.onEnd(this);
  }

  #answer(): void {
    const socket = this.#socket;
    socket.receive();
    const found = socket.next();
    if (found === frame.none && !socket.closed) return;
    if (found === frame.message) {
      const { id, command } = readHeader(socket.buffer, socket.at);
      const reply = Buffer.alloc(header.size);
      writeHeader(reply, 0, id, command, header.size, headerFlags.typeReply | headerFlags.error, errno.EBUSY);
      socket.send(reply, reply.length);
    }
    this.close();
  }
}
