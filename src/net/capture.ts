import type { Logger } from '../log.ts';
import type { Timer } from '../loop/types.ts';
import type { PcapWriter } from './pcap.ts';
import type { HostPort, OffloadedHandler, PortContext, PortStats, ReceiveOffloads } from './port.ts';
import type { FrameOffload } from './types.ts';

const FLUSH_NS = 250e6;

/**
 * Any port, with what passes it written to a capture: sent frames that the port took, received frames when they
 * are first offered to the handler. Frames with offloads are captured as they are, uncut and with unfinished checksums.
 */
export class CapturedPort implements HostPort {
  readonly #port: HostPort;
  readonly #writer: PcapWriter;
  readonly #log: Logger;
  readonly #flush: Timer;
  #again = false;

  /** Both the port and the writer are closed with this one. */
  constructor(port: HostPort, writer: PcapWriter, context: PortContext) {
    this.#port = port;
    this.#writer = writer;
    this.#log = context.log;
    this.#flush = context.reactor.timer(() => this.#guard(() => this.#writer.flush()));
  }

  get kind(): HostPort['kind'] {
    return this.#port.kind;
  }

  get offloads(): boolean {
    return this.#port.offloads;
  }

  get linkUp(): boolean {
    return this.#port.linkUp;
  }

  get stats(): Readonly<PortStats> {
    return this.#port.stats;
  }

  send(parts: readonly Uint8Array[], length: number, offload?: FrameOffload): boolean {
    const sent = this.#port.send(parts, length, offload);
    if (sent) this.#capture(() => this.#writer.write(parts, length));
    return sent;
  }

  receive(handler: (frame: Uint8Array) => boolean): void {
    this.#port.receive((frame) => {
      this.#arrived(frame);
      return this.#taken(handler(frame));
    });
  }

  receiveOffloaded(handler: OffloadedHandler, accepts: ReceiveOffloads): void {
    this.#port.receiveOffloaded((frame, offload) => {
      this.#arrived(frame);
      return this.#taken(handler(frame, offload));
    }, accepts);
  }

  ready(): void {
    this.#port.ready();
  }

  onLink(handler: (up: boolean) => void): void {
    this.#port.onLink((up) => {
      if (!up) this.#again = false;
      handler(up);
    });
  }

  setLink(up: boolean): void {
    this.#port.setLink(up);
  }

  park(): boolean {
    this.#again = false;
    return this.#port.park();
  }

  standby(): void {
    this.#port.standby();
  }

  activate(): void {
    this.#port.activate();
  }

  announce(mac: Uint8Array): void {
    this.#port.announce(mac);
  }

  close(): void {
    this.#flush.close();
    this.#port.close();
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
