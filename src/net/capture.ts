import type { Logger } from '../log.ts';
import type { Timer } from '../loop/types.ts';
import type { PcapWriter } from './pcap.ts';
import type { HostPort, OffloadedHandler, PortContext, ReceiveOffloads } from './port.ts';
import type { FrameOffload } from './types.ts';
import { WrappedPort } from './wrapped-port.ts';

const FLUSH_NS = 250e6;

/**
 * Any port, with what passes it written to a capture: sent frames that the port took, received frames when they
 * are first offered to the handler. Frames with offloads are captured as they are, uncut and with unfinished checksums.
 */
export class CapturedPort extends WrappedPort {
  readonly #writer: PcapWriter;
  readonly #log: Logger;
  readonly #flush: Timer;
  #again = false;

  /** Both the port and the writer are closed with this one. */
  constructor(port: HostPort, writer: PcapWriter, context: PortContext) {
    super(port);
    this.#writer = writer;
    this.#log = context.log;
    this.#flush = context.reactor.timer(() => this.#guard(() => this.#writer.flush()));
  }

  send(parts: readonly Uint8Array[], length: number, offload?: FrameOffload): boolean {
    const sent = this.port.send(parts, length, offload);
    if (sent) this.#capture(() => this.#writer.write(parts, length));
    return sent;
  }

  receive(handler: (frame: Uint8Array) => boolean): void {
    this.port.receive((frame) => {
      this.#arrived(frame);
      return this.#taken(handler(frame));
    });
  }

  receiveOffloaded(handler: OffloadedHandler, accepts: ReceiveOffloads): void {
    this.port.receiveOffloaded((frame, offload) => {
      this.#arrived(frame);
      return this.#taken(handler(frame, offload));
    }, accepts);
  }

  override onLink(handler: (up: boolean) => void): void {
    super.onLink((up) => {
      if (!up) this.#again = false;
      handler(up);
    });
  }

  override park(): boolean {
    this.#again = false;
    return super.park();
  }

  override close(): void {
    this.#flush.close();
    super.close();
    this.#guard(() => this.#writer.close());
  }

  /** Written before the handler sees it: the handler may answer at once, and question goes before answer. */
  #arrived(frame: Uint8Array): void {
    if (!this.#again) this.#capture(() => this.#writer.writeOne(frame));
  }

  /** A frame that the handler had no room for is the next one to come, and written already. */
  #taken(taken: boolean): boolean {
    this.#again = !taken;
    return taken;
  }

  #capture(write: () => void): void {
    this.#guard(write);
    if (!this.#flush.armed) this.#flush.arm(FLUSH_NS);
  }

  /** A capture that fails must not stop the network. */
  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#log.error({ err: error }, 'capture failed');
    }
  }
}
