import { errno } from '../../errors.ts';
import { connectUnix } from '../../posix/index.ts';
import type { Capabilities } from '../capabilities.ts';
import { regionInfo } from '../structs.ts';
import { ClientConnection, type ClientOptions, closeAll } from './connection.ts';
import { ConnectionError } from './errors.ts';
import { bytesRange } from './memory.ts';
import * as op from './operations.ts';

/**
 * A vfio-user client that waits for its replies: for tests, tools and benchmarks. Serves the server's DMA
 * messages out of its memory while it waits (and in `poll()`). Descriptors that it returns are the caller's. Offsets, lengths and
 * addresses are bytes.
 *
 * All requests throw `PeerError` when the server refuses them, `ProtocolError` for a reply that does not fit, and `ConnectionError`
 * when the connection has ended or no reply comes in time (`ClientOptions.timeoutMs`).
 */
export class VfioUserClient extends ClientConnection {
  #negotiated: op.Negotiated | undefined;

  /** Connects to a server's socket and negotiates. Throws `PosixError` where no server listens. */
  static connect(path: string, options: ClientOptions = {}): VfioUserClient {
    return VfioUserClient.adopt(connectUnix(path), options);
  }

  /** Takes over a connected socket and negotiates. */
  static adopt(fd: number, options: ClientOptions = {}): VfioUserClient {
    const client = VfioUserClient.raw(fd, options);
    try {
      client.negotiate();
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  /** As `adopt`, without negotiating: for tests of what a server does then. */
  static raw(fd: number, options: ClientOptions = {}): VfioUserClient {
    return new VfioUserClient(fd, options);
  }

  /** What the server announced. */
  get server(): Capabilities {
    if (this.#negotiated === undefined) throw new ConnectionError(errno.ENOTCONN, 'not negotiated yet');
    return this.#negotiated.capabilities;
  }

  /** The minor version that was agreed upon; undefined before. */
  get minor(): number | undefined {
    return this.#negotiated?.minor;
  }

  /** VERSION: proposes `ClientOptions.capabilities`. For a client that was made by `raw`. */
  negotiate(): op.Negotiated {
    this.#negotiated = this.run(op.negotiate(this.offer));
    return this.#negotiated;
  }

  getInfo(): op.DeviceInfo {
    return this.run(op.deviceInfo());
  }

  /** Asks again with enough room when the first reply says so, as QEMU does. */
  getRegionInfo(index: number): op.RegionDescription {
    const first = this.run(op.regionInfo(index));
    if (first.argsz <= regionInfo.size) return first;
    closeAll(first.fd === undefined ? [] : [first.fd]);
    return this.run(op.regionInfo(index, first.argsz));
  }

  getRegionIoFds(index: number): op.IoFdDescription {
    const first = this.run(op.regionIoFds(index));
    return first.count === 0 ? first : this.run(op.regionIoFds(index, first.argsz));
  }

  getIrqInfo(index: number): { flags: number; count: number } {
    return this.run(op.irqInfo(index));
  }

  setIrqs(request: op.IrqRequest): void {
    this.run(op.setIrqs(request));
  }

  /** Bytes of a region, ours to keep. */
  regionRead(region: number, offset: number, count: number): Buffer {
    return this.run(op.regionRead(region, offset, count));
  }

  regionWrite(region: number, offset: number, data: Uint8Array): void {
    this.run(op.regionWrite(region, offset, data));
  }

  /** As a posted write of a guest: no reply, no error. */
  regionWritePosted(region: number, offset: number, data: Uint8Array): void {
    this.post(op.regionWrite(region, offset, data));
  }

  /** All or none of at most 200 writes of 8 bytes at most. */
  regionWriteMulti(writes: readonly op.SmallWrite[]): void {
    this.run(op.regionWriteMulti(writes));
  }

  /** The value of a little-endian register of 1, 2 or 4 bytes. */
  readRegister(region: number, offset: number, size: 1 | 2 | 4 = 4): number {
    return this.regionRead(region, offset, size).readUIntLE(0, size);
  }

  writeRegister(region: number, offset: number, value: number, size: 1 | 2 | 4 = 4): void {
    const data = Buffer.alloc(size);
    data.writeUIntLE(value, 0, size);
    this.regionWrite(region, offset, data);
  }

  reset(): void {
    this.run(op.reset());
  }

  /**
   * Maps memory for the device. With `fd` the server may map it; with `bytes` its DMA messages are served
   * from there (both may be given: then they should be the same memory).
   */
  dmaMap(request: op.DmaMapRequest & { readonly bytes?: Uint8Array }): void {
    this.run(op.dmaMap(request));
    if (request.bytes !== undefined) this.memory.add(bytesRange(request.iova, request.bytes, request.prot));
  }

  dmaUnmap(iova: number, size: number): void {
    this.run(op.dmaUnmap(iova, size));
    this.memory.remove(iova, size);
  }

  dmaUnmapAll(): void {
    this.run(op.dmaUnmapAll());
    this.memory.clear();
  }

  /** DEVICE_FEATURE with any flags (`featureFlags`); `room` is what the reply's data may take, default as much as was sent. */
  deviceFeature(flags: number, data: Uint8Array, room?: number): Buffer {
    return this.run(op.deviceFeature(flags, data, room));
  }

  /** `VFIO_MIGRATION_*` bits. */
  migrationFlags(): number {
    return this.run(op.migrationFlags());
  }

  /** The migration state, a `VFIO_DEVICE_STATE_*`. */
  getState(): number {
    return this.run(op.migrationState());
  }

  setState(state: number): void {
    this.run(op.setMigrationState(state));
  }

  /** Estimate of the bytes that STOP_COPY would read now. */
  dataSize(): number {
    return this.run(op.migrationDataSize());
  }

  /** Up to `size` bytes of state; fewer, or none, at the end (in the PRE_COPY states: for now). Ours to keep. */
  readState(size: number): Buffer {
    return this.run(op.readState(size));
  }

  writeState(data: Uint8Array): void {
    this.run(op.writeState(data));
  }

  precopyInfo(): op.PrecopyInfo {
    return this.run(op.precopyInfo());
  }

  /** Returns the page size that the device chose. No ranges: everything is logged. */
  startDmaLogging(pageSize: number, ranges: readonly op.LoggingRange[] = []): number {
    return this.run(op.startDmaLogging(pageSize, ranges));
  }

  stopDmaLogging(): void {
    this.run(op.stopDmaLogging());
  }

  /** A bit for each page, least significant first; what is told is clean from then on. */
  reportDmaLogging(iova: number, length: number, pageSize: number): Buffer {
    return this.run(op.reportDmaLogging(iova, length, pageSize));
  }

  /** One operation of the companion extension (docs/protocol-extensions.md), on the migration socket. */
  companion(operation: string, args: Readonly<Record<string, unknown>> = {}): unknown {
    return this.run(op.companion(operation, args));
  }
}
