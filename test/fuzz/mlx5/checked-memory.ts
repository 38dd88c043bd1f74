import { DirtyLog } from '../../../src/dma/dirty-log.ts';
import { dmaProt, GuestMemoryMap } from '../../../src/dma/index.ts';
import { MappedMemory, memfdCreate, mmapProt } from '../../../src/posix/index.ts';
import { FakeMemory } from '../../unit/mlx5/fake-host.ts';

const page = 4096;
/** Bytes on both sides of guest memory in its file that nobody may touch. */
const guardBytes = 16 * page;

/**
 * Guest memory from address 0, over the real map of DMA regions and the real dirty log. Counts accesses, checks what a model asks
 * for, and can tell afterwards whether anything around it was touched.
 */
export class CheckedMemory extends FakeMemory {
  readonly map = new GuestMemoryMap();
  readonly log: DirtyLog;
  /** Accesses of the device. */
  accesses = 0;
  /** What no caller may ask for. */
  readonly violations: string[] = [];
  /** Called at each access. */
  onAccess: () => void = () => {};
  readonly #file: Buffer;

  private constructor(file: Buffer, fd: number, size: number) {
    super(file.subarray(guardBytes, guardBytes + size));
    this.#file = file;
    this.log = new DirtyLog({
      scope: 'precise',
      attach: (wanted) => this.map.setDirtySink(wanted ? this.log : undefined),
    });
    this.map.map({ iova: 0, size, prot: dmaProt.read | dmaProt.write, fd, fdOffset: guardBytes });
  }

  /** @param size bytes, below 1 GiB */
  static create(size: number): CheckedMemory {
    const whole = size + 2 * guardBytes;
    const fd = memfdCreate('guest', whole);
    const mapped = MappedMemory.map(fd, 0, whole, mmapProt.READ | mmapProt.WRITE);
    const file = mapped.windows[0];
    if (file === undefined) throw new Error('memory was not mapped');
    return new CheckedMemory(file, fd, size);
  }

  close(): void {
    this.log.stop();
    this.map.unmapAll();
    this.map.collect();
  }

  guardsUntouched(): boolean {
    const front = this.#file.subarray(0, guardBytes);
    const back = this.#file.subarray(guardBytes + this.bytes.length);
    return !front.some((byte) => byte !== 0) && !back.some((byte) => byte !== 0);
  }

  /** Pages that the dirty log has, which then is empty. */
  takeDirty(): Set<number> {
    return new Set([...this.log.takeDirtyPages()].map((address) => address / page));
  }

  #check(what: string, iova: number, length: number): void {
    this.accesses++;
    this.onAccess();
    const sane = Number.isSafeInteger(iova) && iova >= 0 && Number.isSafeInteger(length) && length > 0;
    if (!sane) this.violations.push(`${what} of ${length} bytes at ${iova}`);
  }

  override read(iova: number, target: Uint8Array): void {
    this.#check('read', iova, target.length);
    this.map.read(iova, target);
  }

  override write(iova: number, source: Uint8Array): void {
    this.#check('write', iova, source.length);
    this.map.write(iova, source);
  }

  override view(iova: number, length: number): Uint8Array | undefined {
    this.#check('view', iova, length);
    return this.messageOnly ? undefined : this.map.view(iova, length);
  }

  override writableView(iova: number, length: number): Uint8Array | undefined {
    this.#check('writable view', iova, length);
    return this.messageOnly ? undefined : this.map.writableView(iova, length);
  }

  override readUint16BE(iova: number): number {
    this.#check('read', iova, 2);
    return this.map.readUint16BE(iova);
  }

  override readUint32BE(iova: number): number {
    this.#check('read', iova, 4);
    return this.map.readUint32BE(iova);
  }

  override readUint32LE(iova: number): number {
    this.#check('read', iova, 4);
    return this.map.readUint32LE(iova);
  }

  override writeUint32BE(iova: number, value: number): void {
    this.#check('write', iova, 4);
    this.map.writeUint32BE(iova, value);
  }

  override writeUint32LE(iova: number, value: number): void {
    this.#check('write', iova, 4);
    this.map.writeUint32LE(iova, value);
  }

  override writeUint8(iova: number, value: number): void {
    this.#check('write', iova, 1);
    this.map.writeUint8(iova, value);
  }

  override accessible(iova: number, length: number, prot = 0): boolean {
    return this.map.accessible(iova, length, prot);
  }
}
