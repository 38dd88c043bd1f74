import { uint16, uint32 } from './frame/parse.ts';
import { defaultHardMtu } from './limits.ts';

/** `MLX5_VPORT_STATE_*`. */
export const vportState = { DOWN: 0, UP: 1 } as const;
/** `MLX5_VPORT_ADMIN_STATE_*`. */
export const vportAdminState = { DOWN: 0, UP: 1, AUTO: 2 } as const;
/** `allowed_list_type` (`MLX5_NVPRT_LIST_TYPE_*`). */
export const listType = { UC: 0, MC: 1, VLAN: 2 } as const;
/** `paos_reg.admin_status` (`MLX5_PORT_UP`, `MLX5_PORT_DOWN`). */
export const portStatus = { UP: 1, DOWN: 2 } as const;

export const macBytes = 6;
/** Where a frame has its source address. */
const sourceAt = macBytes;

/** What belongs to the virtual port rather than to an object: addresses, MTU, filters' lists, admin states. */
export class Vport {
  /** The address that every reset brings back. */
  #cardMac: Uint8Array;
  /** That of a card whose state was loaded and has not run here yet. */
  #arrivingMac: Uint8Array | undefined;
  /** `permanent_address`. */
  mac: Uint8Array;
  mtu = 0;
  promiscUc = false;
  promiscMc = false;
  promiscAll = false;
  /** Lists that the driver keeps up to date, by `listType`: MAC addresses as numbers, VLAN ids. */
  lists: readonly [number[], number[], number[]] = [[], [], []];
  adminState: number = vportAdminState.UP;
  /** PAOS: what the driver asked for; the link itself is the port's. */
  portAdmin: number = portStatus.UP;
  /** PMTU admin and operational value: longest frame with FCS. */
  hardMtu = defaultHardMtu;
  /** Whether any TIR asked for frames of this vport itself (see `selfLoopback`). */
  selfLoopback = 0;
  /**
   * Whether the network knows the interface's own address to be here: the last frame from it went out by this port. Of two cards of a bond,
   * which both have its address, that is so of one.
   */
  known = false;

  constructor(mac: Uint8Array) {
    this.#cardMac = mac;
    this.mac = mac;
    this.reset();
  }

  /** The card's address of the factory. It travels: the card stays the same one wherever it is served. */
  get factoryMac(): Uint8Array {
    return this.#arrivingMac ?? this.#cardMac;
  }

  /** A card is about to move in: it is here once it runs. A migration that comes to nothing ends in a reset before that. */
  arrive(factoryMac: Uint8Array | undefined): void {
    this.#arrivingMac = factoryMac;
  }

  /** The device runs. */
  settle(): void {
    this.#cardMac = this.factoryMac;
    this.#arrivingMac = undefined;
  }

  reset(): void {
    this.#arrivingMac = undefined;
    this.mac = Uint8Array.from(this.#cardMac);
    this.mtu = defaultHardMtu;
    this.promiscUc = false;
    this.promiscMc = false;
    this.promiscAll = false;
    this.lists = [[], [], []];
    this.adminState = vportAdminState.UP;
    this.portAdmin = portStatus.UP;
    this.hardMtu = defaultHardMtu;
    this.selfLoopback = 0;
    this.known = false;
  }

  /**
   * Addresses in use, as numbers: those that the driver lists, its interface's own first. The permanent one need not be
   * among them, and may be in use elsewhere then.
   */
  get addresses(): readonly number[] {
    const listed = this.lists[listType.UC];
    return listed.length === 0 ? [macNumber(this.mac)] : listed;
  }

  /** The interface's own address, as a number. */
  get own(): number {
    return this.lists[listType.UC][0] ?? macNumber(this.mac);
  }

  /** A frame went out. What is for the switch itself, as LACP, all cards of a bond send. */
  sent(frame: Uint8Array): void {
    if (!this.known && !isForSwitch(frame)) this.known = macNumber(frame, sourceAt) === this.own;
  }

  /** A frame came from the network: one with the own address as its source has another sender. */
  heard(frame: Uint8Array): void {
    if (this.known && frame.length >= 2 * macBytes) this.known = macNumber(frame, sourceAt) !== this.own;
  }

  /** VLANs in use. 0, which Linux lists on every interface, is the tag of a priority only. */
  get vlans(): readonly number[] {
    return this.lists[listType.VLAN].filter((vlan) => vlan !== 0);
  }

  /** Whether a frame is to an address in use. */
  isOwnMac(frame: Uint8Array): boolean {
    return this.addresses.includes(macNumber(frame));
  }
}

/** To one of the addresses that a standard has given a purpose (01-80-C2-…). */
function isForSwitch([first, second, third]: Uint8Array): boolean {
  return first === 0x01 && second === 0x80 && third === 0xc2;
}

/** The address at byte `at`. */
function macNumber(bytes: Uint8Array, at = 0): number {
  return uint16(bytes, at) * 2 ** 32 + uint32(bytes, at + 2);
}

/** The address of which `number` is the number. */
export function macBytesOf(number: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(number));
  return Uint8Array.from(bytes.subarray(2));
}

const locallyAdministered = 0x02;
const group = 0x01;

/** `52:54:00:12:34:56` as bytes; undefined when it is no unicast address. */
export function parseMac(text: string): Uint8Array | undefined {
  if (!/^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$/.test(text)) return undefined;
  const bytes = Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16));
  return isUnicast(bytes) ? bytes : undefined;
}

export function isUnicast(mac: Uint8Array): boolean {
  return ((mac[0] ?? 0) & group) === 0;
}

/** A random locally administered unicast address. */
export function randomMac(random: (bytes: Uint8Array) => unknown): Uint8Array {
  const bytes = new Uint8Array(macBytes);
  random(bytes);
  bytes[0] = ((bytes[0] ?? 0) & ~group) | locallyAdministered;
  return bytes;
}
