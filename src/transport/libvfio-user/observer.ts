import { closeFd } from '../../posix/index.ts';
import { type Capabilities, defaultOffer } from '../../vfio-user/capabilities.ts';
import { command, feature, featureFlags } from '../../vfio-user/constants.ts';
import { readU64 } from '../../vfio-user/struct.ts';
import { deviceFeature, dmaMap, header } from '../../vfio-user/structs.ts';
import { deviceHandlers } from '../native/device-handlers.ts';
import type { HandlerContext } from '../native/handler.ts';
import type { ServedDevice } from '../served-device.ts';
import type { DeviceAdapter } from './device-adapter.ts';
import type { Inbox } from './inbox.ts';

/** SET_IRQS with a byte for each of 2048 vectors. */
const irqSetRoom = 4096;

const setIrqs = deviceHandlers.find(({ spec }) => spec.command === command.DEVICE_SET_IRQS);

/** A SET_IRQS that the library is about to handle, with copies of its descriptors. */
interface SeenIrqSet {
  readonly message: Buffer;
  readonly fds: readonly number[];
}

/** Learns from requests what the library does not tell its device, before and after the library handles them. */
export class RequestObserver {
  readonly #inbox: Inbox;
  readonly #adapter: DeviceAdapter;
  readonly #context: HandlerContext;
  #irqSet: SeenIrqSet | undefined;
  #logging = false;

  constructor(inbox: Inbox, adapter: DeviceAdapter, device: ServedDevice, peer: Capabilities) {
    this.#inbox = inbox;
    this.#adapter = adapter;
    this.#context = {
      device,
      role: 'device',
      offer: defaultOffer,
      peer,
      companion: undefined,
      sendReplies: () => undefined,
      scratch: (size) => Buffer.alloc(size),
    };
  }

  /** Whether the client has asked the library to log writes. True as well when the library refused; marks do nothing then. */
  get logging(): boolean {
    return this.#logging;
  }

  /** The request at the head of the inbox is the library's next. */
  before(cmd: number): void {
    if (cmd === command.DEVICE_SET_IRQS) {
      const fds: number[] = [];
      const message = this.#inbox.peekWhole(irqSetRoom, fds);
      this.#irqSet = { message, fds };
    } else if (cmd === command.DMA_MAP) this.#offerMemory();
    else if (cmd === command.DEVICE_FEATURE) this.#noteLogging();
  }

  /** The library has handled it. */
  after(): void {
    if (this.#irqSet !== undefined) this.#setIrqs(this.#irqSet);
    this.#irqSet = undefined;
    this.#adapter.withdraw();
  }

  /**
   * The library keeps descriptors of its own, for `vfu_irq_trigger`, which knows neither INTx from MSI-X nor ERR and
   * REQ, and tells nobody that a descriptor came or went. The device gets copies, with the request.
   */
  #setIrqs({ message, fds }: SeenIrqSet): void {
    try {
      if (setIrqs === undefined || message.length < header.size) throw new Error('SET_IRQS was not there');
      setIrqs.run(this.#context, message.subarray(header.size), fds);
    } catch (error) {
      this.#adapter.failed(error);
    }
  }

  #offerMemory(): void {
    const fds: number[] = [];
    const message = this.#inbox.peekWhole(header.size + dmaMap.size, fds);
    const [fd, ...rest] = fds;
    for (const other of rest) closeFd(other);
    const at = header.size + dmaMap.offsets.offset;
    let fdOffset = 0;
    try {
      if (message.length >= at + 8) fdOffset = readU64(message, at);
    } catch {
      // Above 2^53: mapping it will fail, in the library or here.
      fdOffset = -1;
    }
    this.#adapter.offered = { fd, fdOffset };
  }

  #noteLogging(): void {
    const { bytes, seen } = this.#inbox;
    const at = header.size + deviceFeature.offsets.flags;
    if (seen < at + 4) return;
    const flags = bytes.readUInt32LE(at);
    if ((flags & featureFlags.set) === 0 || (flags & featureFlags.probe) !== 0) return;
    const index = flags & featureFlags.indexMask;
    if (index === feature.DMA_LOGGING_START) this.#logging = true;
    else if (index === feature.DMA_LOGGING_STOP) this.#logging = false;
  }
}
