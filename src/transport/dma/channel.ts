import type { ByteBatchResult, MessageDma } from '../../dma/types.ts';
import { errno, errnoName, RequestError } from '../../errors.ts';
import { command, headerFlags } from '../../vfio-user/constants.ts';
import { writeHeader } from '../../vfio-user/messages.ts';
import { writeU64 } from '../../vfio-user/struct.ts';
import { dmaAccess, header } from '../../vfio-user/structs.ts';
import type { DmaChannelOptions, DmaPort } from './port.ts';
import { ReplyWait } from './reply-wait.ts';
import { checkReply, newTransfer, type Transfer } from './transfer.ts';

const requestSize = header.size + dmaAccess.size;
const byteWriteSize = requestSize + 1;
/** Longest piece of `postBatch`. */
const postedPiece = 2;
/** Small writes gathered into one send. */
const gathered = 128;
/**
 * Posted writes between two that are answered, and how many of those may be open: what is under way stays well
 * below the 208 KiB that a socket queues by default, and the client always has work.
 */
const postedGroup = 512;
const openGroups = 2;
/** Replies that the caller wanted beyond those: so many more may be open. */
const openExtra = 128;
/** Slots for messages in flight; a power of two, so that an id's low bits name its slot. */
const slots = 1024;
const idMask = 0x7fff;
/** Ids above `idMask` are for writes that ask for no reply; the low bits tell one batch from the next. */
const postedId = 0x8000;
/**
 * QEMU's client sends a reply with one non-blocking write and takes a short one for the whole (hw/vfio-user/proxy.c,
 * vfio_user_send_qio): the rest is never sent, and what follows would be read as data. A write is all or
 * nothing while it fits into one socket buffer (about 48 KiB, net/unix/af_unix.c), so no reply may be larger, and
 * what is asked for at once should fit into the 208 KiB that a socket queues by default.
 */
const readChunk = 32 * 1024;
const maxReadInFlight = 128 * 1024;
/** Bytes written at once, so that a slow client does not make the output queue grow. */
const maxWriteInFlight = 8 * 1024 * 1024;
/** A count with nothing in its low 32 bits, larger than any client allows. */
const probeCount = 2 ** 32;

/**
 * `VFIO_USER_DMA_READ` and `VFIO_USER_DMA_WRITE`: message access to the client's memory, pipelined. Every
 * call waits for all of its replies, during which the connection goes on being served.
 */
export class DmaChannel implements MessageDma {
  readonly #port: DmaPort;
  readonly #options: DmaChannelOptions;
  /** One array for everything that is sent: see `AddressCache` in src/posix/libc.ts. */
  readonly #out: Buffer;
  readonly #transfers: (Transfer | undefined)[] = new Array(slots).fill(undefined);
  readonly #ids = new Int32Array(slots);
  readonly #offsets = new Float64Array(slots);
  readonly #lengths = new Float64Array(slots);
  #nextId = 0;
  #postedId = postedId;
  #postedRefused = 0;
  #state: 'unknown' | 'good' | 'refused';
  readonly #wait: ReplyWait;

  /** @param out at least `DmaChannel.outputSize` bytes, for this channel alone */
  constructor(port: DmaPort, out: Buffer, options: DmaChannelOptions) {
    this.#port = port;
    this.#out = out;
    this.#options = options;
    this.#wait = new ReplyWait(port, options.timeoutMs);
    this.#state = options.probe ? 'unknown' : 'good';
  }

  static readonly outputSize = (requestSize + postedPiece) * gathered;

  get mayWait(): boolean {
    return this.#port.mayWait;
  }

  read(iova: number, target: Uint8Array): void {
    this.#ready();
    this.#run(newTransfer(command.DMA_READ, iova, target));
  }

  write(iova: number, source: Uint8Array): void {
    this.#ready();
    this.#run(newTransfer(command.DMA_WRITE, iova, source));
  }

  writeByteBatch(
    addresses: ArrayLike<number>,
    count: number,
    bytes: Uint8Array,
    results?: Int32Array,
  ): ByteBatchResult {
    if (
      count > addresses.length ||
      count > bytes.length ||
      (results !== undefined && count > results.length)
    ) {
      throw new RequestError(errno.EINVAL, `a batch of ${count} bytes in shorter arrays`);
    }
    this.#ready();
    const transfer = newTransfer(command.DMA_WRITE, 0, bytes, addresses, results);
    this.#runBatch(transfer, count);
    return { failed: transfer.failed, firstErrno: transfer.firstErrno };
  }

  /**
   * Posted (NO_REPLY) but for some: a reply costs QEMU's client as much as the write itself. It answers a refusal all the
   * same (hw/vfio-user/pci.c, vfio_user_dma_write), and answers in order, so that after the last write, which is
   * not posted, all refusals are known.
   */
  postBatch(
    addresses: ArrayLike<number>,
    lengths: Uint8Array,
    bytes: Uint8Array,
    count: number,
    answered: Uint8Array,
  ): boolean {
    const shortest = Math.min(addresses.length, lengths.length, answered.length);
    if (count > shortest || count * postedPiece > bytes.length) {
      throw new RequestError(errno.EINVAL, `a batch of ${count} pieces in shorter arrays`);
    }
    if (!this.#options.probe) return false;
    this.#ready();
    const transfer = newTransfer(command.DMA_WRITE, 0, bytes, addresses);
    this.#postedId = postedId | ((this.#postedId + 1) & idMask);
    this.#postedRefused = 0;
    this.#runPosted(transfer, lengths, answered, count);
    return transfer.failed === 0 && this.#postedRefused === 0;
  }

  /**
   * Takes a reply from the client.
   *
   * @param at where the reply's payload begins in `buffer`
   * @returns why it is none of ours, or undefined
   */
  onReply(
    id: number,
    cmd: number,
    flags: number,
    error: number,
    buffer: Buffer,
    at: number,
    length: number,
  ): string | undefined {
    if (id > idMask) return this.#onPostedReply(id, flags);
    const slot = id & (slots - 1);
    const transfer = this.#transfers[slot];
    if (transfer === undefined || this.#ids[slot] !== id) return `no request has the id ${id}`;
    if (transfer.command !== cmd) return `request ${id} was command ${transfer.command}, the reply is ${cmd}`;
    const offset = this.#offsets[slot] ?? 0;
    const bytes = this.#lengths[slot] ?? 0;
    this.#transfers[slot] = undefined;
    transfer.inFlight -= 1;
    transfer.bytesInFlight -= bytes;
    transfer.progress = this.#port.now();
    if ((flags & headerFlags.error) !== 0) {
      const value = error === 0 ? errno.EIO : error;
      transfer.failed += 1;
      if (transfer.firstErrno === 0) transfer.firstErrno = value;
      if (transfer.results !== undefined) transfer.results[offset] = value;
      return undefined;
    }
    transfer.succeeded = true;
    const problem = checkReply(transfer, offset, bytes, buffer, at, length);
    if (problem !== undefined) {
      transfer.broken ??= problem;
    } else if (cmd === command.DMA_READ) {
      buffer.copy(transfer.bytes, offset, at + dmaAccess.size, at + length);
    } else if (transfer.results !== undefined) {
      transfer.results[offset] = 0;
    }
    return undefined;
  }

  #onPostedReply(id: number, flags: number): string | undefined {
    if (id !== this.#postedId) return `no request has the id ${id}`;
    if ((flags & headerFlags.error) === 0) return 'a write that asked for no reply was answered';
    this.#postedRefused += 1;
    return undefined;
  }

  /**
   * Ends all waits, and refuses further ones until `allow()`: the client waits for a reset, and QEMU's answers
   * no DMA meanwhile. What the device was about is void once it is reset.
   */
  cancel(): void {
    this.#wait.cancel();
  }

  /** The device is to be reset and has not unwound: nothing more is to be served until then, so that all that follows finds it reset. */
  get cancelled(): boolean {
    return this.#wait.cancelled;
  }

  /** The device has unwound: DMA is possible again. */
  allow(): void {
    this.#wait.allow();
  }

  #ready(): void {
    this.#wait.checkCancelled();
    if (!this.#port.open) throw new RequestError(errno.ENOTCONN, 'DMA by message: no client is connected');
    if (!this.#port.mayWait) {
      throw new RequestError(errno.EAGAIN, 'DMA by message: the client waits for an answer itself', {
        hint: 'do it in host.defer(), once the access has been answered',
      });
    }
    if (this.#state === 'unknown') this.#probe();
    if (this.#state === 'refused') {
      throw new RequestError(
        errno.EPROTO,
        'DMA by message: this client lays DMA_READ and DMA_WRITE out with a 32-bit count, which would shift the data',
        {
          hint: 'use QEMU 11.1 or later; QEMU 10.1 and 10.2 work only with shared guest memory (memory-backend with share=on)',
        },
      );
    }
  }

  /**
   * QEMU 10.1 and 10.2 have a 32-bit count (hw/vfio-user/protocol.h VFIOUserDMARW), data 4 bytes early. A read
   * of 2^32 bytes tells the layouts apart without touching anything: 64-bit clients refuse it as too large, a
   * 32-bit one sees a count of 0 and reports success.
   */
  #probe(): void {
    const transfer = newTransfer(command.DMA_READ, 0, new Uint8Array(0));
    this.#port.beginWait();
    try {
      transfer.progress = this.#port.now();
      this.#writeRequest(0, transfer, 0, 0, 0, probeCount);
      this.#port.send(this.#out, requestSize);
      this.#finish(transfer);
    } finally {
      this.#abandon(transfer);
      this.#port.endWait();
    }
    // Only now: what came in between has asked for itself.
    this.#state = transfer.succeeded ? 'refused' : 'good';
  }

  #run(transfer: Transfer): void {
    const length = transfer.bytes.length;
    const { window } = this.#options;
    const reading = transfer.command === command.DMA_READ;
    const chunk = reading ? Math.min(this.#options.chunk, readChunk) : this.#options.chunk;
    const limit = reading ? maxReadInFlight : maxWriteInFlight;
    let offset = 0;
    this.#port.beginWait();
    try {
      transfer.progress = this.#port.now();
      while (offset < length && transfer.failed === 0 && transfer.broken === undefined) {
        this.#wait.checkCancelled();
        if (
          transfer.inFlight < window &&
          (transfer.inFlight === 0 || transfer.bytesInFlight + chunk <= limit) &&
          !this.#port.blocked
        ) {
          const size = Math.min(chunk, length - offset);
          this.#sendChunk(transfer, offset, size);
          offset += size;
        } else this.#wait.once(transfer);
      }
      this.#finish(transfer);
    } finally {
      this.#abandon(transfer);
      this.#port.endWait();
    }
    if (transfer.failed > 0) {
      const what = transfer.command === command.DMA_READ ? 'read' : 'write';
      throw new RequestError(
        transfer.firstErrno,
        `DMA by message: the client refused to ${what} ${length} bytes at 0x${transfer.iova.toString(16)}: ${errnoName(transfer.firstErrno)}`,
      );
    }
    this.#checkBroken(transfer);
  }

  #sendChunk(transfer: Transfer, offset: number, size: number): void {
    const write = transfer.command === command.DMA_WRITE;
    this.#writeRequest(0, transfer, offset, size, transfer.iova + offset, size);
    const payload = write ? transfer.bytes.subarray(offset, offset + size) : undefined;
    this.#port.send(this.#out, requestSize, payload);
  }

  #runBatch(transfer: Transfer, count: number): void {
    const window = Math.min(this.#options.batchWindow, slots / 2);
    const addresses = transfer.addresses ?? [];
    const out = this.#out;
    let index = 0;
    this.#port.beginWait();
    try {
      transfer.progress = this.#port.now();
      while (index < count && transfer.broken === undefined) {
        const batch = Math.min(gathered, window - transfer.inFlight, count - index);
        // Refilled in halves: a send for every reply would cost a system call each.
        if (
          this.#port.blocked ||
          (batch < gathered && batch < count - index && transfer.inFlight > window / 2)
        ) {
          this.#wait.once(transfer);
          continue;
        }
        let at = 0;
        for (const end = index + batch; index < end; index++) {
          this.#writeRequest(at, transfer, index, 1, addresses[index] ?? 0, 1);
          out[at + requestSize] = transfer.bytes[index] ?? 0;
          at += byteWriteSize;
        }
        this.#port.send(out, at);
      }
      this.#finish(transfer);
    } finally {
      this.#abandon(transfer);
      this.#port.endWait();
    }
    this.#checkBroken(transfer);
  }

  #runPosted(transfer: Transfer, lengths: Uint8Array, answered: Uint8Array, count: number): void {
    const { addresses = [], bytes } = transfer;
    const out = this.#out;
    let at = 0;
    let pieces = 0;
    let extra = 0;
    this.#port.beginWait();
    try {
      transfer.progress = this.#port.now();
      for (let index = 0; index < count; index++) {
        const length = lengths[index] ?? 0;
        const last = index % postedGroup === postedGroup - 1 || index === count - 1;
        if (last || answered[index] !== 0)
          this.#writeRequest(at, transfer, index, length, addresses[index] ?? 0, length);
        else this.#writePosted(at, length, addresses[index] ?? 0);
        at += requestSize;
        // Both slots whatever the length: a rehearsal, with writes of no bytes, is to run the same instructions.
        out[at] = bytes[index * postedPiece] ?? 0;
        out[at + 1] = bytes[index * postedPiece + 1] ?? 0;
        at += length;
        if (!last && answered[index] !== 0) extra += 1;
        if (++pieces < gathered && !last) continue;
        this.#port.send(out, at);
        at = 0;
        pieces = 0;
        const most = openGroups + Math.min(extra, openExtra);
        while (this.#port.blocked || transfer.inFlight >= most) this.#wait.asleep(transfer);
      }
      while (transfer.inFlight > 0) this.#wait.asleep(transfer);
    } finally {
      this.#abandon(transfer);
      this.#port.endWait();
    }
    this.#checkBroken(transfer);
  }

  #writePosted(at: number, length: number, address: number): void {
    const out = this.#out;
    const flags = headerFlags.typeCommand | headerFlags.noReply;
    writeHeader(out, at, this.#postedId, command.DMA_WRITE, requestSize + length, flags, 0);
    writeU64(out, address, at + header.size + dmaAccess.offsets.addr);
    writeU64(out, length, at + header.size + dmaAccess.offsets.count);
  }

  /** Lays out one request at `at` of the output and takes a slot for it. */
  #writeRequest(
    at: number,
    transfer: Transfer,
    offset: number,
    length: number,
    address: number,
    count: number,
  ): void {
    const id = this.#takeId();
    const slot = id & (slots - 1);
    this.#transfers[slot] = transfer;
    this.#ids[slot] = id;
    this.#offsets[slot] = offset;
    this.#lengths[slot] = length;
    transfer.inFlight += 1;
    transfer.bytesInFlight += length;
    const out = this.#out;
    const size = requestSize + (transfer.command === command.DMA_WRITE ? length : 0);
    writeHeader(out, at, id, transfer.command, size, headerFlags.typeCommand, 0);
    writeU64(out, address, at + header.size + dmaAccess.offsets.addr);
    writeU64(out, count, at + header.size + dmaAccess.offsets.count);
  }

  #takeId(): number {
    for (let tries = 0; tries < slots; tries++) {
      this.#nextId = (this.#nextId + 1) & idMask;
      if (this.#transfers[this.#nextId & (slots - 1)] === undefined) return this.#nextId;
    }
    throw new RequestError(errno.EBUSY, 'DMA by message: too many requests in flight');
  }

  #finish(transfer: Transfer): void {
    while (transfer.inFlight > 0) this.#wait.once(transfer);
  }

  /** Gives the slots of requests without a reply back; a late reply finds another id there. */
  #abandon(transfer: Transfer): void {
    if (transfer.inFlight === 0) return;
    for (let slot = 0; slot < slots; slot++) {
      if (this.#transfers[slot] === transfer) this.#transfers[slot] = undefined;
    }
    transfer.inFlight = 0;
  }

  #checkBroken(transfer: Transfer): void {
    if (transfer.broken === undefined) return;
    throw new RequestError(errno.EPROTO, `DMA by message: bad reply: ${transfer.broken}`);
  }
}
