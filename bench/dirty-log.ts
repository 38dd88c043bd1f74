/**
 * Cost of the dirty log: nanoseconds for each marked DMA write by pattern, and reports over 1 TiB of I/O virtual
 * address space. Run: `npm run build && node dist/bench/dirty-log.js`. Prints one JSON object.
 */
import { DirtyLog } from '../src/dma/dirty-log.ts';

const marks = 20_000_000;
const TiB = 2 ** 40;

function started(): DirtyLog {
  const log = new DirtyLog({ scope: 'precise' });
  log.start(4096, []);
  return log;
}

/** Nanoseconds for each call of `mark` over the addresses given, after warming up. */
function perMark(addresses: Float64Array, length: number): number {
  const log = started();
  const mask = addresses.length - 1;
  const run = (count: number) => {
    for (let i = 0; i < count; i++) log.mark(addresses[i & mask] ?? 0, length);
  };
  run(marks / 10);
  const start = process.hrtime.bigint();
  run(marks);
  return Number(((Number(process.hrtime.bigint() - start) / marks) as number).toFixed(1));
}

function addresses(make: (index: number) => number): Float64Array {
  return Float64Array.from({ length: 65536 }, (_, i) => make(i));
}

/** Milliseconds of one report of 1 TiB into a fresh bitmap. */
function report(fill: (log: DirtyLog) => void): number {
  const bitmap = new Uint8Array(TiB / 4096 / 8);
  bitmap.fill(0); // pages of the bitmap itself touched beforehand
  const log = started();
  fill(log);
  const start = process.hrtime.bigint();
  log.report(0, TiB, 4096, bitmap);
  return Number((Number(process.hrtime.bigint() - start) / 1e6).toFixed(3));
}

// A fixed pseudo-random sequence, so that runs compare.
let seed = 1;
const random = () => {
  seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
  return seed / 2 ** 32;
};

const result = {
  nsPerMark: {
    samePage: perMark(
      addresses(() => 0x1234_5000),
      64,
    ),
    ring: perMark(
      addresses((i) => 0x4000_0000 + i * 2048),
      1500,
    ),
    queueAndBuffer: perMark(
      addresses((i) => (i & 1 ? 0x1000_0000 + (i & 4095) : 0x9000_0000 + i * 2048)),
      1500,
    ),
    random16GiB: perMark(
      addresses(() => Math.floor(random() * 2 ** 34)),
      64,
    ),
    oneMiBWrites: perMark(
      addresses((i) => (i & 1023) * 2 ** 20),
      2 ** 20,
    ),
  },
  reportTiBms: {
    clean: report(() => {}),
    scattered10000: report((log) => {
      for (let i = 0; i < 10_000; i++) log.mark(Math.floor(random() * TiB), 64);
    }),
    everything: report((log) => log.mark(0, TiB)),
  },
};
process.stdout.write(`${JSON.stringify(result)}\n`);
