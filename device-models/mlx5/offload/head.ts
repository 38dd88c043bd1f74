import { macAddressesBytes, vlanTagBytes } from '../frame/parse.ts';
import { storeUint16 } from '../frame/transport-checksum.ts';
import { limits } from '../limits.ts';

/** Up to so many bytes a loop is faster than a view and a call. */
const longCopy = 48;

/**
 * The private copy of a frame's headers, which offloads rewrite. In front of the frame there is room for a VLAN tag,
 * so that inserting one moves two addresses and not the rest.
 */
export class FrameHead {
  readonly #storage = Buffer.alloc(vlanTagBytes + limits.longHeaderBytes);
  /** The frame, as it came from the guest. */
  readonly bytes: Buffer = this.#storage.subarray(vlanTagBytes);
  /** Bytes of it that are valid. */
  length = 0;
  #tagged = false;
  /** Views by length, each made when it is first needed: after that a frame costs no allocation for its head. */
  readonly #plain: Uint8Array[] = [];
  readonly #withTag: Uint8Array[] = [];

  /** Room left for headers. */
  get room(): number {
    return limits.longHeaderBytes - this.length;
  }

  start(): void {
    this.length = 0;
    this.#tagged = false;
  }

  append(source: Uint8Array, from: number, count: number): void {
    if (count > longCopy) {
      this.bytes.set(source.subarray(from, from + count), this.length);
      this.length += count;
      return;
    }
    for (let index = 0; index < count; index++) this.bytes[this.length + index] = source[from + index] ?? 0;
    this.length += count;
  }

  /** Zeros up to `length` bytes. */
  pad(length: number): void {
    this.bytes.fill(0, this.length, length);
    this.length = length;
  }

  /** Puts a tag after the addresses. Headers behind them may still be rewritten, the addresses no more. */
  insertVlan(type: number, tci: number): void {
    this.#storage.copyWithin(0, vlanTagBytes, vlanTagBytes + macAddressesBytes);
    storeUint16(this.#storage, macAddressesBytes, type);
    storeUint16(this.#storage, macAddressesBytes + 2, tci);
    this.#tagged = true;
  }

  /** Bytes of a tag that the view has and the frame had not. */
  get inserted(): number {
    return this.#tagged ? vlanTagBytes : 0;
  }

  /** What goes on the wire. */
  view(): Uint8Array {
    if (!this.#tagged) return this.plainView();
    this.#withTag[this.length] ??= this.#storage.subarray(0, this.length + vlanTagBytes);
    return this.#withTag[this.length] ?? this.#storage;
  }

  /** The head as the parser saw it, without an inserted tag. */
  plainView(): Uint8Array {
    this.#plain[this.length] ??= this.bytes.subarray(0, this.length);
    return this.#plain[this.length] ?? this.bytes;
  }
}
