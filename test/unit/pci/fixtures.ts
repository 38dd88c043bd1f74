import fc from 'fast-check';
import type { PciDescription } from '../../../src/device/pci-description.ts';
import { ConfigSpace, InterruptController } from '../../../src/pci/index.ts';

/** A function with everything: both message kinds, PCIe with FLR, PM, vendor and extended capabilities. */
export const fullDescription: PciDescription = {
  vendorId: 0x15b3,
  deviceId: 0x101e,
  subsystemVendorId: 0x15b3,
  subsystemId: 0x0063,
  revisionId: 0x05,
  classCode: 0x020000,
  interruptPin: 1,
  bars: {
    0: { size: 0x10_0000, kind: 'memory64', prefetchable: true },
    2: { size: 0x1000, kind: 'memory32' },
    3: { size: 32, kind: 'io' },
  },
  capabilities: {
    powerManagement: true,
    pcie: { functionLevelReset: true },
    msi: { vectors: 4, address64: true, perVectorMasking: true },
    msix: { vectors: 8, table: { bar: 0, offset: 0x2000 }, pba: { bar: 0, offset: 0x3000 } },
    vendor: [Uint8Array.of(1, 2, 3, 4, 5)],
    extended: [
      { id: 0x0003, version: 1, body: Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1) },
      { id: 0x000b, version: 2, body: Uint8Array.of(0xaa, 0xbb, 0xcc, 0xdd) },
    ],
  },
};

/** The least that can be a function. */
export const plainDescription: PciDescription = {
  vendorId: 0x1234,
  deviceId: 0x11e8,
  classCode: 0xff0000,
  bars: {},
};

/** Reads a little-endian value as a client would. */
export function get(config: ConfigSpace, offset: number, size: number): number {
  const buffer = Buffer.alloc(8);
  config.read(offset, size, buffer, 1);
  return buffer.readUIntLE(1, size);
}

/** Writes a little-endian value as a client would. */
export function put(config: ConfigSpace, offset: number, size: number, value: number): void {
  const buffer = Buffer.alloc(8);
  buffer.writeUIntLE(value >>> 0, 2, size);
  config.write(offset, size, buffer, 2);
}

/** Writes of a guest to any place of the first 256 bytes. */
export const anyWrites = fc.array(
  fc.record({ offset: fc.nat(0xf0), bytes: fc.uint8Array({ minLength: 1, maxLength: 16 }) }),
  { maxLength: 30 },
);

/** A function with everything, after `writes`. */
export function written(writes: { offset: number; bytes: Uint8Array }[]): ConfigSpace {
  const config = new ConfigSpace(fullDescription);
  for (const { offset, bytes } of writes) config.write(offset, bytes.length, Buffer.from(bytes), 0);
  return config;
}

/** Stand-in for eventfds: counts signals, and notices a descriptor closed twice or used after that. */
export class FakeDescriptors {
  readonly open = new Set<number>();
  readonly signals: number[] = [];
  readonly watches = new Map<number, () => void>();
  #next = 100;

  create(): number {
    this.open.add(this.#next);
    return this.#next++;
  }

  signal(fd: number): void {
    if (!this.open.has(fd)) throw new Error(`signal on closed descriptor ${fd}`);
    this.signals.push(fd);
  }

  close(fd: number): void {
    if (!this.open.delete(fd)) throw new Error(`descriptor ${fd} closed twice`);
    if (this.watches.has(fd)) throw new Error(`descriptor ${fd} closed under a watch`);
  }

  watch(fd: number, signaled: () => void): { close(): void } {
    this.watches.set(fd, signaled);
    return { close: () => this.watches.delete(fd) };
  }

  /** Signals since the last call. */
  taken(): number[] {
    return this.signals.splice(0);
  }
}

/** A function with interrupts, wired as a runtime does it. */
export function makeFunction(description: PciDescription = fullDescription, canWatch = true) {
  const fds = new FakeDescriptors();
  const changed = () => interrupts.configChanged();
  const config = new ConfigSpace(description, {
    commandChanged: changed,
    msiControlChanged: changed,
    msixControlChanged: changed,
  });
  const signal = (fd: number) => fds.signal(fd);
  const close = (fd: number) => fds.close(fd);
  const watch = (fd: number, signaled: () => void) => fds.watch(fd, signaled);
  const interrupts = new InterruptController(
    description,
    config,
    canWatch ? { signal, close, watch } : { signal, close },
  );
  /** Gives `index` descriptors for `count` vectors from `start`; returns them. */
  const connect = (index: number, start: number, count: number): number[] => {
    const made = Array.from({ length: count }, () => fds.create());
    interrupts.setIrqs({ index, start, count, action: 'trigger', data: { type: 'eventfd', fds: made } });
    return made;
  };
  return { fds, config, interrupts, connect };
}
