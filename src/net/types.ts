/**
 * Where a NIC's frames go. Ports are made by `src/net` from what a user writes (`tap:NAME`, `switch:PATH` …);
 * a device model only ever sees this interface.
 */

/**
 * Work on a frame that its sender leaves to the port, in the terms of `struct virtio_net_hdr` (Linux
 * virtio_net.h), so that a port which can hand it on (a tap with `IFF_VNET_HDR`) needs no translation.
 */
export interface FrameOffload {
  /** `VIRTIO_NET_HDR_GSO_*`: 0 none, 1 TCP over IPv4, 4 TCP over IPv6, 5 UDP (`GSO_UDP_L4`). */
  gsoType: number;
  /** Bytes of headers in front of the payload that is to be cut; 0 without segmentation. */
  headerLength: number;
  /** Payload bytes of each segment. */
  gsoSize: number;
  /** Where the transport header starts; the checksum covers everything from here to the end. */
  checksumStart: number;
  /** Where the checksum is stored, from `checksumStart`; the pseudo-header's sum is there already. */
  checksumOffset: number;
}

/** The end of a cable. All calls are synchronous; callbacks run in the device loop. */
export interface NetPort {
  /** Whether `send` understands its third argument. */
  readonly offloads: boolean;
  /** Whether that includes cutting UDP (`GSO_UDP_L4`); without, its sender does it. */
  readonly segmentsUdp?: boolean;
  /** Whether the other end is there. */
  readonly linkUp: boolean;
  /**
   * Sends one Ethernet frame (without FCS) given in pieces of `length` bytes in all. The pieces belong to
   * the caller and may change as soon as the call returns. False: dropped, for want of room or of a peer.
   */
  send(parts: readonly Uint8Array[], length: number, offload?: FrameOffload): boolean;
  /**
   * Sets who takes received frames. The frame belongs to the port and is valid during the call only. When
   * the handler returns false it has no room now: the port keeps this frame and the following ones, up to
   * its own bound, until `ready()`.
   */
  receive(handler: (frame: Uint8Array) => boolean): void;
  /** There is room again: hand over what is kept. May call the handler before it returns. */
  ready(): void;
  /** Called whenever the other end comes or goes. */
  onLink(handler: (up: boolean) => void): void;
  /** In charge (again): takes over what is parked for this port's identity. `announce` does so, too. */
  activate(): void;
  /**
   * Tells the network where this MAC address lives now (after a migration), untagged or in a VLAN: bridges that filter by VLAN know
   * its place in each of them. Best effort.
   */
  announce(mac: Uint8Array, vlan?: number): void;
  close(): void;
}
