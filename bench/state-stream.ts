/**
 * Save and load of on-board memory through the state stream, in one process: what encoder, decoder and
 * sessions cost without sockets. Run: `npm run build && node dist/bench/state-stream.js [GiB] [record bytes]`. Prints one JSON
 * object: seconds, GB/s of each half and of both after one another, and the memory that they took.
 */

import type { DeviceMigration, StateRecord } from '../src/device/migration.ts';
import { createDirtyLog } from '../src/dma/dirty-scopes.ts';
import { silentLogger } from '../src/log.ts';
import { MigrationController, migrationState } from '../src/migration/index.ts';

const total = Number(process.argv[2] ?? 1) * 2 ** 30;
/** What a client asks for at a time: the transfer size that QEMU negotiates. */
const transfer = 1024 * 1024;
/** The board's memory: a part is saved over and over, so that memory use shows the stream's share. */
const board = Buffer.alloc(16 * 2 ** 20, 0x5a);
/** Bytes of a record as the model makes it; a model that sends single pages would have 4096. */
const recordSize = Number(process.argv[3] ?? 2 ** 20);

function device(received: { bytes: number }): DeviceMigration {
  return {
    p2p: true,
    geometry: { memorySize: total },
    estimate: () => total,
    *save(): Iterable<StateRecord> {
      for (let offset = 0; offset < total; offset += recordSize) {
        const at = offset % board.length;
        yield { section: 'memory', offset, bytes: board.subarray(at, at + recordSize) };
      }
    },
    beginLoad() {},
    load(record) {
      if (!('bytes' in record)) return;
      board.set(record.bytes, record.offset % board.length);
      received.bytes += record.bytes.length;
    },
    endLoad() {},
  };
}

function controller(received = { bytes: 0 }): MigrationController {
  const nothing = () => {};
  return new MigrationController({
    model: { name: 'bench', stateVersion: 1 },
    device: device(received),
    framework: [],
    hooks: { quiesce: nothing, stop: nothing, resume: nothing, failed: nothing },
    dirtyLog: createDirtyLog({ scope: 'precise', memory: { regions: () => [] }, attach: nothing }),
    log: silentLogger,
  });
}

const received = { bytes: 0 };
const source = controller();
const target = controller(received);
const buffer = Buffer.alloc(transfer);
source.setState(migrationState.STOP_COPY);
target.setState(migrationState.RESUMING);

let saving = 0n;
let loading = 0n;
let streamed = 0;
let rss = 0;
for (;;) {
  const start = process.hrtime.bigint();
  const count = source.read(buffer);
  const read = process.hrtime.bigint();
  target.write(buffer.subarray(0, count));
  saving += read - start;
  loading += process.hrtime.bigint() - read;
  streamed += count;
  if (streamed % (64 * transfer) < transfer) rss = Math.max(rss, process.memoryUsage.rss());
  if (count < buffer.length) break;
}
target.setState(migrationState.STOP);
if (received.bytes !== total) throw new Error(`${received.bytes} of ${total} bytes arrived`);

const rate = (ns: bigint) => Number((total / Number(ns)).toFixed(2));
const result = {
  bytes: total,
  recordSize,
  overhead: streamed / total - 1,
  saveGBps: rate(saving),
  loadGBps: rate(loading),
  saveAndLoadGBps: rate(saving + loading),
  seconds: Number(saving + loading) / 1e9,
  rssMB: Math.round(rss / 1e6),
};
process.stdout.write(`${JSON.stringify(result)}\n`);
