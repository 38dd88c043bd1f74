import { limitedLogger } from '../limited-logger.ts';
import type { Logger } from '../log.ts';
import type { Reactor } from '../loop/types.ts';
import { Announcer } from './announcer.ts';
import type { FrameOffload, NetPort } from './types.ts';

/** What went through a port since it was opened. Bytes are those of frames. */
export interface PortStats {
  sentFrames: number;
  sentBytes: number;
  /** Frames that `send` refused, or that were lost in the port's queue with the connection. */
  sendDropped: number;
  receivedFrames: number;
  receivedBytes: number;
  /** Frames from outside that the port threw away: malformed, link down, in stand-by. */
  receiveDropped: number;
}

export function emptyStats(): PortStats {
  return {
    sentFrames: 0,
    sentBytes: 0,
    sendDropped: 0,
    receivedFrames: 0,
    receivedBytes: 0,
    receiveDropped: 0,
  };
}

/** What a user of `receiveOffloaded` can take on a received frame. */
export interface ReceiveOffloads {
  /** Frames with `checksumOffset` set: the transport checksum is not filled in (it was never on a wire). */
  readonly checksum: boolean;
  /** Frames longer than the MTU with `gsoType` set. Needs `checksum`. */
  readonly segmentation: boolean;
}

/** A frame as the kernel handed it over; `offload` is undefined for a plain one. Returns as in `NetPort.receive`. */
export type OffloadedHandler = (frame: Uint8Array, offload: FrameOffload | undefined) => boolean;

/**
 * A port as its owner (the process that serves the device, or a test) sees it: what a device model uses, and
 * what belongs to operation and migration.
 *
 * Migration: the source calls `park()` before its device stops; the destination calls `announce()` when its
 * device runs; the source calls `activate()` if the migration did not happen.
 */
export interface HostPort extends NetPort {
  readonly kind: 'switch' | 'stream' | 'tap' | 'none';
  readonly stats: Readonly<PortStats>;
  /** Pulls the cable or plugs it in. Down, nothing passes, and the device sees no link. */
  setLink(up: boolean): void;
  /**
   * Frames for this port wait in the network from now on, until somebody takes its place; frames that the
   * handler has not taken yet go back there. False: this kind of port can't park (what arrives while the
   * device is stopped waits in the kernel's queue, and is dropped beyond that).
   */
  park(): boolean;
  /**
   * Gets rid of what was given to `send`, waiting for the other end to take it, `timeoutMs` at most. For a device that has stopped: what is
   * left in this process is lost with it.
   */
  drain(timeoutMs: number): void;
  /** Not (yet) in charge: receives nothing, sends nothing. For a destination that waits for its state. */
  standby(): void;
  /** As `receive`, for a user that can take frames whose checksum or segmentation is still to be done. */
  receiveOffloaded(handler: OffloadedHandler, accepts: ReceiveOffloads): void;
}

/** What every kind of port needs. */
export interface PortContext {
  readonly reactor: Reactor;
  readonly log: Logger;
}

/** The part that all ports share: handlers, link state, counters, announcements. */
export abstract class BasePort implements HostPort {
  abstract readonly kind: HostPort['kind'];
  readonly offloads: boolean = false;
  readonly segmentsUdp: boolean = false;
  readonly stats = emptyStats();
  protected readonly reactor: Reactor;
  protected readonly log: Logger;
  #handler: OffloadedHandler | undefined;
  #linkHandler: ((up: boolean) => void) | undefined;
  #cable = true;
  #peer = false;
  #inStandby = false;
  readonly #announcer: Announcer;

  constructor(context: PortContext) {
    this.reactor = context.reactor;
    this.log = limitedLogger(context.log, () => this.reactor.now());
    this.#announcer = new Announcer(this.reactor, (frame) => this.send([frame], frame.length));
  }

  abstract send(parts: readonly Uint8Array[], length: number, offload?: FrameOffload): boolean;
  abstract ready(): void;

  get linkUp(): boolean {
    return this.#cable && this.#peer;
  }

  receive(handler: (frame: Uint8Array) => boolean): void {
    this.#handler = handler;
    this.ready();
  }

  receiveOffloaded(handler: OffloadedHandler, _accepts: ReceiveOffloads): void {
    this.#handler = handler;
    this.ready();
  }

  onLink(handler: (up: boolean) => void): void {
    this.#linkHandler = handler;
  }

  setLink(up: boolean): void {
    this.#change(() => {
      this.#cable = up;
    });
  }

  park(): boolean {
    this.#announcer.stop();
    return false;
  }

  drain(_timeoutMs: number): void {
    // Nothing is kept, unless there is a socket.
  }

  standby(): void {
    this.#announcer.stop();
    this.#inStandby = true;
  }

  activate(): void {
    this.#inStandby = false;
  }

  announce(mac: Uint8Array, vlan?: number): void {
    this.activate();
    this.#announcer.announce(mac, vlan);
  }

  close(): void {
    this.#announcer.close();
    this.#linkHandler = undefined;
    this.#handler = undefined;
  }

  protected get cablePulled(): boolean {
    return !this.#cable;
  }

  /** Whether a frame from outside has anybody to go to now; if not it is to be dropped and counted. */
  protected get receiving(): boolean {
    return this.#cable && !this.#inStandby && this.#handler !== undefined;
  }

  protected get sending(): boolean {
    return this.#cable && this.#peer && !this.#inStandby;
  }

  /** Hands a frame to the handler (only if `receiving`) and counts it when it is taken. */
  protected deliver(frame: Uint8Array, offload?: FrameOffload): boolean {
    if (this.#handler === undefined) return false;
    try {
      if (!this.#handler(frame, offload)) return false;
    } catch (error) {
      // The device's fault, not the network's: the frame is spent, and the error goes where the loop's errors go.
      this.stats.receiveDropped++;
      this.#raise(error);
      return true;
    }
    this.stats.receivedFrames++;
    this.stats.receivedBytes += frame.length;
    return true;
  }

  /** Counts a `send`; returns its result. */
  protected counted(sent: boolean, length: number): boolean {
    if (sent) {
      this.stats.sentFrames++;
      this.stats.sentBytes += length;
    } else {
      this.stats.sendDropped++;
    }
    return sent;
  }

  /** The other end came or went. */
  protected setPeer(present: boolean): void {
    this.#change(() => {
      this.#peer = present;
    });
  }

  #change(change: () => void): void {
    const before = this.linkUp;
    change();
    if (this.linkUp === before) return;
    try {
      this.#linkHandler?.(this.linkUp);
    } catch (error) {
      this.#raise(error);
    }
  }

  #raise(error: unknown): void {
    this.reactor.defer(() => {
      throw error;
    });
  }
}
