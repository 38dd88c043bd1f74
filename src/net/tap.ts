import { ready, type Timer, type Watch } from '../loop/types.ts';
import { closeFd, rawArea, read, VectorList } from '../posix/index.ts';
import { AnswerLook } from './answer-look.ts';
import { ethernet, MAX_FRAME } from './ethernet.ts';
import { BasePort, type OffloadedHandler, type PortContext, type ReceiveOffloads } from './port.ts';
import { Segmenter } from './segmenter.ts';
import {
  openTun,
  setTunCarrier,
  setTunOffload,
  type Tun,
  tunOffload,
  tunRunning,
  virtioGso,
  virtioNetFlag,
  virtioNetHeader,
} from './tun.ts';
import type { FrameOffload } from './types.ts';

export interface TapPortOptions extends PortContext {
  /** The tap's interface name. */
  readonly name: string;
  /** Network namespace: a name of `ip netns`, or a path such as /proc/PID/ns/net. */
  readonly namespace?: string;
}

/** Frames taken before other descriptors have their turn. */
const FRAMES_PER_TURN = 64;
/** Pieces of one frame that are written without putting them together first. */
const MAX_PIECES = 128;
const CARRIER_CHECK_NS = 500e6;
/** While it is down somebody may be waiting for it: a bridge port comes up a moment after the tap is opened. */
const CARRIER_CHECK_DOWN_NS = 20e6;

/**
 * A Linux tap interface: the other end is the host's network stack, usually through a bridge. Frames leave
 * straight from the caller's memory; checksums and segmentation can be left to the kernel.
 */
export class TapPort extends BasePort {
  readonly kind = 'tap';
  override readonly offloads = true;
  override readonly segmentsUdp: boolean;
  readonly #tun: Tun;
  readonly #watch: Watch;
  readonly #carrier: Timer;
  readonly #vectors = new VectorList(MAX_PIECES + 1);
  readonly #header = rawArea(virtioNetHeader.size);
  readonly #in = rawArea(virtioNetHeader.size + MAX_FRAME);
  readonly #offload: FrameOffload = {
    gsoType: 0,
    headerLength: 0,
    gsoSize: 0,
    checksumStart: 0,
    checksumOffset: 0,
  };
  readonly #segmenter = new Segmenter(this.#in.bytes);
  /** The frame in `#in` that the handler had no room for; length 0 for none. */
  #waitingAt = 0;
  #waiting = 0;
  /** The handler takes plain frames only: what the kernel left undone is done here. */
  #plain = true;
  #processing = false;
  #closed = false;
  readonly #answers = new AnswerLook();
  readonly #lookForAnswer = () => this.#look();
  #looking = false;

  /** @throws NetError when the tap can't be opened */
  constructor(options: TapPortOptions) {
    super(options);
    this.#tun = openTun(options.name, options.namespace);
    this.segmentsUdp = this.#tun.segmentsUdp;
    // As it may be for a name that is misspelt.
    if (this.#tun.made)
      this.log.warn(
        { tap: options.name },
        'there was no such interface: a tap was made, that nothing is joined to',
      );
    this.#watch = this.reactor.watch(this.#tun.fd, ready.read, () => this.#readable());
    this.#carrier = this.reactor.timer(() => this.#checkCarrier());
    this.#checkCarrier();
  }

  override send(parts: readonly Uint8Array[], length: number, offload?: FrameOffload): boolean {
    const fits = length >= ethernet.headerLength && length <= MAX_FRAME;
    if (!fits || !this.sending) return this.counted(false, length);
    this.#putHeader(offload);
    const vectors = this.#vectors;
    vectors.clear();
    vectors.add(this.#header.bytes);
    if (parts.length > MAX_PIECES) vectors.add(Buffer.concat(parts, length));
    else for (const part of parts) vectors.add(part);
    const sent = vectors.write(this.#tun.fd) === virtioNetHeader.size + length;
    if (sent && !this.#looking && this.#waiting === 0 && this.#answers.worthwhile(this.reactor.now())) {
      // Deferred: the device is in the middle of sending.
      this.#looking = true;
      this.reactor.defer(this.#lookForAnswer);
    }
    return this.counted(sent, length);
  }

  override ready(): void {
    if (this.#processing || this.#closed || this.#waiting === 0) return;
    const length = this.#waiting;
    this.#waiting = 0;
    if (this.#hand(this.#waitingAt, length, undefined) && this.#handSegments()) this.#readable();
  }

  override receive(handler: (frame: Uint8Array) => boolean): void {
    // Cutting long segments here is several times as fast as fetching each piece by a system call.
    setTunOffload(this.#tun, tunOffload.CSUM | tunOffload.TSO4 | tunOffload.TSO6);
    this.#plain = true;
    super.receive(handler);
  }

  override receiveOffloaded(handler: OffloadedHandler, accepts: ReceiveOffloads): void {
    const checksum = accepts.checksum ? tunOffload.CSUM : 0;
    const segmentation =
      accepts.checksum && accepts.segmentation ? tunOffload.TSO4 | tunOffload.TSO6 | tunOffload.TSO_ECN : 0;
    setTunOffload(this.#tun, checksum | segmentation);
    this.#plain = false;
    super.receiveOffloaded(handler, accepts);
  }

  /** The carrier on the host's side goes down and up with it. */
  override setLink(up: boolean): void {
    if (!this.#closed) setTunCarrier(this.#tun, up);
    super.setLink(up);
  }

  override close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch.close();
    this.#carrier.close();
    closeFd(this.#tun.fd);
    closeFd(this.#tun.socket);
    super.close();
  }

  #putHeader(offload: FrameOffload | undefined): void {
    const { bytes } = this.#header;
    bytes.fill(0);
    if (offload === undefined) return;
    bytes.writeUInt8(virtioNetFlag.NEEDS_CSUM, virtioNetHeader.flags);
    bytes.writeUInt8(offload.gsoType, virtioNetHeader.gsoType);
    bytes.writeUInt16LE(offload.headerLength, virtioNetHeader.headerLength);
    bytes.writeUInt16LE(offload.gsoSize, virtioNetHeader.gsoSize);
    bytes.writeUInt16LE(offload.checksumStart, virtioNetHeader.checksumStart);
    bytes.writeUInt16LE(offload.checksumOffset, virtioNetHeader.checksumOffset);
  }

  /** What the kernel left undone on the frame in `#in`; undefined when nothing. */
  #takeHeader(): FrameOffload | undefined {
    const { bytes } = this.#in;
    if ((bytes.readUInt8(virtioNetHeader.flags) & virtioNetFlag.NEEDS_CSUM) === 0) return undefined;
    const offload = this.#offload;
    offload.gsoType = bytes.readUInt8(virtioNetHeader.gsoType) & ~virtioGso.ECN;
    offload.headerLength = bytes.readUInt16LE(virtioNetHeader.headerLength);
    offload.gsoSize = bytes.readUInt16LE(virtioNetHeader.gsoSize);
    offload.checksumStart = bytes.readUInt16LE(virtioNetHeader.checksumStart);
    offload.checksumOffset = bytes.readUInt16LE(virtioNetHeader.checksumOffset);
    return offload;
  }

  #look(): void {
    this.#looking = false;
    // With a frame waiting for room the following ones are left in the kernel.
    if (!this.#closed && !this.#processing && this.#waiting === 0) this.#answers.looked(this.#readable());
  }

  /** Takes what is there; returns whether there was anything. */
  #readable(): boolean {
    let found = false;
    try {
      for (let count = 0; count < FRAMES_PER_TURN && !this.#closed; count++) {
        const length = read(this.#tun.fd, this.#in.bytes) - virtioNetHeader.size;
        if (length < 0) break;
        found = true;
        if (!this.#take(length)) return true;
      }
      if (!this.#closed) this.#watch.modify(ready.read);
    } catch (error) {
      // EBADFD: the interface was deleted under us.
      this.log.warn({ tap: this.#tun.name, err: error }, 'tap is gone');
      this.#watch.close();
      this.#carrier.cancel();
      this.setPeer(false);
    }
    return found;
  }

  /** Handles what was read; false when no more is to be read now. */
  #take(length: number): boolean {
    const offload = this.#takeHeader();
    if (offload === undefined || !this.#plain) return this.#hand(virtioNetHeader.size, length, offload);
    if (!this.receiving || !this.#segmenter.begin(virtioNetHeader.size, length, offload)) {
      this.stats.receiveDropped++;
      return true;
    }
    return this.#handSegments();
  }

  #handSegments(): boolean {
    for (;;) {
      const length = this.#segmenter.next();
      if (length === 0) return true;
      if (!this.#hand(this.#segmenter.at, length, undefined)) return false;
    }
  }

  /** False when the handler has no room: the frame stays here, the following ones in the kernel's queue. */
  #hand(at: number, length: number, offload: FrameOffload | undefined): boolean {
    if (!this.receiving || length < ethernet.headerLength) {
      this.stats.receiveDropped++;
      return true;
    }
    const frame = this.#in.bytes.subarray(at, at + length);
    this.#processing = true;
    try {
      if (this.deliver(frame, offload)) return !this.#closed;
    } finally {
      this.#processing = false;
    }
    if (this.#closed) return false;
    this.#waitingAt = at;
    this.#waiting = length;
    this.#watch.modify(0);
    return false;
  }

  /** Interfaces tell of their state by netlink; looking twice a second is far less code. */
  #checkCarrier(): void {
    const running = tunRunning(this.#tun);
    // Our own `setLink(false)` takes the carrier, which says nothing about the other end.
    const up = running || this.cablePulled;
    this.setPeer(up);
    this.#carrier.arm(up ? CARRIER_CHECK_NS : CARRIER_CHECK_DOWN_NS);
  }
}
