import { errno } from '../errors.ts';
import {
  closeFd,
  inNetworkNamespace,
  ioctl,
  networkSocket,
  open,
  openFlag,
  PosixError,
} from '../posix/index.ts';
import { NetError } from './errors.ts';

/** `struct ifreq` (linux/if.h): the name, and a union of which only the flags are used. */
const ifreq = { name: 0, nameSize: 16, flags: 16, size: 40 } as const;
/** linux/sockios.h */
const interfaceRequest = { SIOCGIFFLAGS: 0x8913, SIOCSIFFLAGS: 0x8914 } as const;
/** linux/if.h */
const interfaceFlag = { UP: 1, RUNNING: 0x40 } as const;

/** Requests of linux/if_tun.h; all but TUNSETIFF, TUNSETOFFLOAD take a pointer to an int. */
const tunRequest = {
  TUNSETIFF: 0x400454ca,
  TUNSETOFFLOAD: 0x400454d0,
  TUNSETVNETHDRSZ: 0x400454d8,
  TUNSETVNETLE: 0x400454dc,
  TUNSETCARRIER: 0x400454e2,
} as const;
/** IFF_* of linux/if_tun.h */
const tunFlag = { TAP: 2, NO_PI: 0x1000, VNET_HDR: 0x4000 } as const;
/** TUN_F_* of linux/if_tun.h: what the reader of the tap can take. */
export const tunOffload = {
  CSUM: 0x01,
  TSO4: 0x02,
  TSO6: 0x04,
  TSO_ECN: 0x08,
  USO4: 0x20,
  USO6: 0x40,
} as const;

/** `struct virtio_net_hdr` (linux/virtio_net.h), little-endian by TUNSETVNETLE; in front of each frame. */
export const virtioNetHeader = {
  flags: 0,
  gsoType: 1,
  headerLength: 2,
  gsoSize: 4,
  checksumStart: 6,
  checksumOffset: 8,
  size: 10,
} as const;
export const virtioNetFlag = { NEEDS_CSUM: 1 } as const;
/** `VIRTIO_NET_HDR_GSO_ECN` is a flag on top of the type. */
export const virtioGso = { NONE: 0, TCPV4: 1, TCPV6: 4, UDP_L4: 5, ECN: 0x80 } as const;

/** An opened tap and a socket in the same network namespace, to ask about its interface. */
export interface Tun {
  readonly fd: number;
  readonly socket: number;
  readonly name: string;
  /** The kernel cuts UDP datagrams that are written to the tap (`virtioGso.UDP_L4`). */
  readonly segmentsUdp: boolean;
  /** There was none of that name; it goes with this process. */
  readonly made: boolean;
}

function request(name: string): Buffer {
  const bytes = Buffer.alloc(ifreq.size);
  bytes.write(name, ifreq.name, ifreq.nameSize - 1, 'latin1');
  return bytes;
}

/** Interface flags, or undefined when there is no such interface. */
function interfaceFlags(socket: number, name: string): number | undefined {
  const bytes = request(name);
  try {
    ioctl(socket, interfaceRequest.SIOCGIFFLAGS, bytes);
  } catch (error) {
    if (error instanceof PosixError && error.errno === errno.ENODEV) return undefined;
    throw error;
  }
  return bytes.readUInt16LE(ifreq.flags);
}

/** Whether the interface is up and passes frames; false as well when it is gone. */
export function tunRunning(tun: Tun): boolean {
  const wanted = interfaceFlag.UP | interfaceFlag.RUNNING;
  return ((interfaceFlags(tun.socket, tun.name) ?? 0) & wanted) === wanted;
}

/** Takes the carrier of the interface away, or gives it back (Linux 5.0). */
export function setTunCarrier(tun: Tun, on: boolean): void {
  ioctl(tun.fd, tunRequest.TUNSETCARRIER, int(on ? 1 : 0));
}

/** Tells the kernel which frames we can take: `tunOffload` bits. */
export function setTunOffload(tun: Tun, offload: number): void {
  ioctl(tun.fd, tunRequest.TUNSETOFFLOAD, offload);
}

/**
 * Whether the kernel knows segmentation of UDP (Linux 6.2): before, it refuses to be told that a reader can take it, and
 * what is written with it. The same version brought both. Afterwards the reader can take plain frames only.
 *
 * @param setOffload TUNSETOFFLOAD on a tap
 */
export function knowsUdpSegmentation(setOffload: (offload: number) => void): boolean {
  let known = true;
  try {
    setOffload(tunOffload.CSUM | tunOffload.USO4 | tunOffload.USO6);
  } catch (error) {
    if (!(error instanceof PosixError) || error.errno !== errno.EINVAL) throw error;
    known = false;
  }
  setOffload(0);
  return known;
}

function int(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}

/** Path of a network namespace as `ip netns` names it; a path is left alone. */
export function namespacePath(namespace: string): string {
  return namespace.includes('/') ? namespace : `/run/netns/${namespace}`;
}

/**
 * Attaches to the tap `name`, which is made (and set up, and gone again with this process) if there is none.
 *
 * @param namespace name of a network namespace (`ip netns`) or path to one; ours if undefined
 * @throws NetError saying what is missing
 */
export function openTun(name: string, namespace?: string): Tun {
  if (!/^[^\s/:]{1,15}$/.test(name)) throw new NetError(`${JSON.stringify(name)} is no interface name`);
  try {
    return namespace === undefined
      ? attach(name)
      : inNetworkNamespace(namespacePath(namespace), () => attach(name));
  } catch (error) {
    if (!(error instanceof PosixError)) throw error;
    throw new NetError(
      `no tap ${name}${namespace === undefined ? '' : ` in ${namespace}`}: ${error.message}`,
      hint(name, error),
      error,
    );
  }
}

function hint(name: string, error: PosixError): string {
  if (error.hint !== undefined) return error.hint;
  if (error.errno === errno.EBUSY) return 'another process uses it: a tap has one owner';
  if (error.errno === errno.EINVAL) return `${name} is no tap, or one with several queues`;
  return (
    `run as root, or have it made for this user: ip tuntap add dev ${name} mode tap user NAME ` +
    `(one that is another user's goes before: ip tuntap del dev ${name} mode tap)`
  );
}

const tunDevice = '/dev/net/tun';
const deviceHints: ReadonlyMap<number, string> = new Map([
  [errno.EACCES, `have root open it to all users, as it is on most machines: chmod 0666 ${tunDevice}`],
  [errno.ENOENT, 'have root load the module tun'],
  [errno.ENODEV, 'have root load the module tun'],
]);

function openDevice(): number {
  try {
    return open(tunDevice, openFlag.RDWR | openFlag.NONBLOCK);
  } catch (error) {
    if (!(error instanceof PosixError)) throw error;
    throw new PosixError(`open ${tunDevice}`, error.errno, deviceHints.get(error.errno));
  }
}

function attach(name: string): Tun {
  const socket = networkSocket();
  try {
    const known = interfaceFlags(socket, name) !== undefined;
    const fd = openDevice();
    try {
      const wanted = request(name);
      wanted.writeUInt16LE(tunFlag.TAP | tunFlag.NO_PI | tunFlag.VNET_HDR, ifreq.flags);
      ioctl(fd, tunRequest.TUNSETIFF, wanted);
      ioctl(fd, tunRequest.TUNSETVNETHDRSZ, int(virtioNetHeader.size));
      ioctl(fd, tunRequest.TUNSETVNETLE, int(1));
      const segmentsUdp = knowsUdpSegmentation((offload) => ioctl(fd, tunRequest.TUNSETOFFLOAD, offload));
      if (!known) setUp(socket, name);
      return { fd, socket, name, segmentsUdp, made: !known };
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  } catch (error) {
    closeFd(socket);
    throw error;
  }
}

function setUp(socket: number, name: string): void {
  const bytes = request(name);
  bytes.writeUInt16LE((interfaceFlags(socket, name) ?? 0) | interfaceFlag.UP, ifreq.flags);
  ioctl(socket, interfaceRequest.SIOCSIFFLAGS, bytes);
}
