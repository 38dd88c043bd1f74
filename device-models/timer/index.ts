import {
  type BarHandler,
  CompanionError,
  type DeviceHost,
  type DeviceMigration,
  defineModel,
  errno,
  RequestError,
  type StateRecord,
} from '../../src/device/index.ts';

const pageSize = 0x1000;
/** The sample's BAR 1 has this many bytes; the BAR is the next power of two, as PCI wants it. */
const storageSize = 3 * pageSize;
/** PRE_COPY sends this much, so that with the stream's own bytes it fits 12 reads of 1 KiB, as the sample's. */
const previewSize = 11 * 1024;
const timeWidth = 8;
const nsPerSecond = 1e9;
/** Longest single wait (48 days), so that nanoseconds stay exact; a time farther away is waited for in turns. */
const longestWait = 2 ** 22;
/** One DMA of the sample's self test: four blocks of 'A', 'B', 'C' and 'D'. */
const blockSize = 1024;
const blocks = ['A', 'B', 'C', 'D'].map((letter) => Buffer.alloc(blockSize, letter));

/** Seconds since the epoch: the unit of BAR 0. */
const epochSeconds = (): number => Math.floor(Date.now() / 1000);

/**
 * What libvfio-user's `samples/server.c` is, for its unmodified `samples/client`: BAR 0 takes a time (seconds
 * since the epoch, signed 64 bits) and answers how long ago that was; when it comes, INTx rises and the
 * device tries DMA on the client's first two regions, by mapping and by message. BAR 1 is storage that
 * clients map in part.
 */
export const timer = defineModel({
  name: 'timer',
  description: "behaves as libvfio-user's samples/server: a timer with INTx, mappable storage, DMA self test",
  stateVersion: 1,
  options: {
    dma: {
      type: 'boolean',
      default: true,
      description: 'write to the client’s first two DMA regions when time is up',
    },
  },

  pci: () => ({
    vendorId: 0xdead,
    deviceId: 0xbeef,
    subsystemVendorId: 0xcafe,
    subsystemId: 0xbabe,
    classCode: 0xff0000,
    interruptPin: 1,
    bars: {
      0: { size: 8, kind: 'io' },
      1: {
        size: 4 * pageSize,
        kind: 'memory32',
        mappable: [
          { offset: 0, size: pageSize },
          { offset: 2 * pageSize, size: pageSize },
        ],
      },
    },
  }),

  create(host, options) {
    const storage = Buffer.from(host.barMemory(1).buffer, host.barMemory(1).byteOffset, storageSize);
    let time = 0n;
    let armed = false;
    const alarm = host.timer(() => ring());

    function arm(): void {
      armed = true;
      // A time that is now or was before has come: libvfio-user's sample would wait for ever if it is now.
      const seconds = Math.max(0, Number(time) - epochSeconds());
      alarm.arm(Math.min(seconds, longestWait) * nsPerSecond);
    }

    function ring(): void {
      if (!host.mayInitiate) return;
      if (Number(time) - epochSeconds() > 1) {
        arm();
        return;
      }
      armed = false;
      host.interrupts.setIntx(true);
      if (options.dma) selfTest(host);
    }

    const clock: BarHandler = {
      read(_offset, count, target, at) {
        checkWidth(count);
        target.writeBigInt64LE(BigInt.asIntN(64, BigInt(epochSeconds()) - time), at);
      },
      write(_offset, count, source, at) {
        checkWidth(count);
        host.interrupts.setIntx(false);
        time = source.readBigInt64LE(at);
        arm();
      },
    };

    const memory: BarHandler = {
      read(offset, count, target, at) {
        target.fill(0, at, at + count);
        storage.copy(target, at, Math.min(offset, storageSize), Math.min(offset + count, storageSize));
      },
      write(offset, count, source, at) {
        if (offset + count > storageSize) throw new RequestError(errno.EINVAL, 'BAR 1 ends at 0x3000');
        source.copy(storage, offset, at, at + count);
      },
    };

    const state: DeviceMigration = {
      p2p: false,
      geometry: {},
      finalIsComplete: true,
      estimate: () => storageSize + timeWidth,
      *save(): Iterable<StateRecord> {
        yield { section: 'storage', offset: 0, bytes: storage };
        yield { section: 'time', value: { time, armed } };
      },
      preCopy() {
        let sent = false;
        return {
          initialBytes: () => (sent ? 0 : previewSize),
          dirtyBytes: () => 0,
          next(): StateRecord | undefined {
            if (sent) return undefined;
            sent = true;
            return { section: 'storage', offset: 0, bytes: storage.subarray(0, previewSize) };
          },
          final: () => state.save(),
          end: () => {},
        };
      },
      beginLoad() {
        time = 0n;
        armed = false;
        storage.fill(0);
      },
      load(record) {
        if ('bytes' in record && record.section === 'storage') {
          if (!(record.offset >= 0 && record.offset + record.bytes.length <= storageSize)) {
            throw new CompanionError('VC_TIMER_STATE', 'storage outside BAR 1');
          }
          storage.set(record.bytes, record.offset);
        } else if ('value' in record && record.section === 'time')
          ({ time, armed } = checkTime(record.value));
        else throw new CompanionError('VC_TIMER_STATE', `a timer has no section "${record.section}"`);
      },
      endLoad: () => {},
    };

    return {
      bars: { 0: clock, 1: memory },
      // The sample's reset does nothing; a reset that forgets is what a guest expects.
      reset() {
        time = 0n;
        armed = false;
        alarm.cancel();
        host.interrupts.setIntx(false);
      },
      quiesce: () => alarm.cancel(),
      resume() {
        if (armed) arm();
      },
      migration: state,
      close: () => alarm.close(),
    };
  },
});

function checkWidth(count: number): void {
  if (count !== timeWidth) throw new RequestError(errno.EINVAL, 'BAR 0 is one register of 8 bytes');
}

function checkTime(value: unknown): { time: bigint; armed: boolean } {
  const { time, armed } = (value ?? {}) as { time?: unknown; armed?: unknown };
  const whole = typeof time === 'bigint' || (typeof time === 'number' && Number.isSafeInteger(time));
  if (!whole || typeof armed !== 'boolean') throw new CompanionError('VC_TIMER_STATE', 'the time is not one');
  return { time: BigInt.asIntN(64, BigInt(time)), armed };
}

/**
 * Direct DMA to the second region, messages to the first; what comes back must be what went. The sample's client never
 * writes the command register; one that has (a guest's firmware, for it decodes the BARs) decides about DMA, too.
 */
function selfTest(host: DeviceHost): void {
  if (host.pci.memorySpace && !host.pci.busMaster) return;
  const [first, second] = host.dma.regions();
  if (!first || !second) return;
  try {
    tryBlocks(second.iova, host.dma);
    tryBlocks(first.iova, host.messages);
  } catch (error) {
    host.log.error({ err: error }, 'timer: the DMA self test failed');
  }
}

function tryBlocks(iova: number, bus: Pick<DeviceHost['dma'], 'read' | 'write'>): void {
  for (const [index, block] of blocks.entries()) bus.write(iova + index * blockSize, block);
  const sent = Buffer.concat(blocks);
  const got = Buffer.alloc(sent.length);
  const half = sent.length / 2;
  bus.read(iova, got.subarray(0, half));
  bus.read(iova + half, got.subarray(half));
  if (!got.equals(sent))
    throw new CompanionError('VC_TIMER_DMA', `other bytes came back from 0x${iova.toString(16)}`);
}
