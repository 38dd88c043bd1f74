import { NetError } from './errors.ts';
import { ethernet, etherType, vlanTagLength as tagLength, vlanTag } from './ethernet.ts';
import type { HostPort, OffloadedHandler } from './port.ts';
import { WrappedPort } from './wrapped-port.ts';

const vlanMask = 0xfff;
const maxVlan = 4094;

/**
 * An access port of one VLAN, around any port: what comes from it is tagged, what goes to it must carry the tag
 * and loses it; everything else is not for it. So a network stack that knows nothing of VLANs takes part in one.
 */
export class VlanPort extends WrappedPort {
  readonly #tag: Buffer;
  readonly #vlan: number;
  /** A received frame with its tag; grows to the longest frame seen. */
  #frame = Buffer.alloc(2048);

  /** @throws NetError unless `vlan` is 1 to 4094 */
  constructor(port: HostPort, vlan: number) {
    super(port);
    if (!Number.isInteger(vlan) || vlan < 1 || vlan > maxVlan) throw new NetError(`${vlan} is no VLAN`);
    this.#vlan = vlan;
    this.#tag = vlanTag(vlan);
  }

  /** Tags are put on and taken off in plain frames only. */
  override get offloads(): boolean {
    return false;
  }

  override get segmentsUdp(): boolean {
    return false;
  }

  /** True for frames of other VLANs, too: they have been dealt with. */
  send(parts: readonly Uint8Array[], length: number): boolean {
    const frame = Buffer.concat(parts, length);
    if (length < ethernet.headerLength + tagLength || frame.readUInt16BE(ethernet.type) !== etherType.vlan)
      return true;
    if ((frame.readUInt16BE(ethernet.type + 2) & vlanMask) !== this.#vlan) return true;
    const pieces = [frame.subarray(0, ethernet.type), frame.subarray(ethernet.type + tagLength)];
    return this.port.send(pieces, length - tagLength);
  }

  receive(handler: (frame: Uint8Array) => boolean): void {
    this.port.receive((frame) => handler(this.#tagged(frame)));
  }

  receiveOffloaded(handler: OffloadedHandler): void {
    this.receive((frame) => handler(frame, undefined));
  }

  /** Who is behind the port sees no tags, and nothing of other VLANs. */
  override announce(mac: Uint8Array, vlan?: number): void {
    if (vlan === undefined || vlan === this.#vlan) super.announce(mac);
  }

  #tagged(frame: Uint8Array): Uint8Array {
    const length = frame.length + tagLength;
    if (this.#frame.length < length) this.#frame = Buffer.alloc(length);
    this.#frame.set(frame.subarray(0, ethernet.type), 0);
    this.#frame.set(this.#tag, ethernet.type);
    this.#frame.set(frame.subarray(ethernet.type), ethernet.type + tagLength);
    return this.#frame.subarray(0, length);
  }
}
