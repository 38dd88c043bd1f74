/**
 * Bandwidth of device accesses to guest memory, against copies that know nothing of mappings, checks or
 * logs: Buffer.copy between private buffers, and libc's memcpy on the same guest pages. Everything is
 * measured in turns within one run, so that a busy machine is equally busy for all.
 *
 * Build, then: node dist/bench/dma.js [--json]
 */
import { createDirtyLog, dmaProt, GuestMemoryMap } from '../src/dma/index.ts';
import { dupFd, MappedMemory, memfdCreate, mmapProt } from '../src/posix/index.ts';
import { addressOf, libc } from '../src/posix/libc.ts';

const GUEST = 64 << 20;
const BASE = 2 ** 32;
const SIZES = [64, 256, 1024, 4096, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
/** Bytes that each candidate moves per turn, within limits on the number of calls. */
const BYTES_PER_TURN = 16 << 20;
const CALLS_PER_TURN = { least: 2, most: 20_000 };
const TURNS = 15;

const file = memfdCreate('bench-dma', GUEST);
const guest = MappedMemory.map(file, 0, GUEST, mmapProt.READ | mmapProt.WRITE);
const memory = new GuestMemoryMap();
memory.map({ iova: BASE, size: GUEST, prot: dmaProt.read | dmaProt.write, fd: dupFd(file), fdOffset: 0 });
const guestBytes = guest.windows[0] ?? Buffer.alloc(0);
guestBytes.fill(1);
const privateBytes = Buffer.alloc(GUEST, 2);
const guestAddress = addressOf(guestBytes);

type Candidate = (at: number, buffer: Buffer, size: number, address: number) => void;
const candidates: Record<string, Candidate> = {
  read: (at, buffer) => memory.read(BASE + at, buffer),
  bufferRead: (at, buffer, size) => void privateBytes.copy(buffer, 0, at, at + size),
  memcpyRead: (at, _buffer, size, address) => void libc.memcpy(address, guestAddress + at, size),
  write: (at, buffer) => memory.write(BASE + at, buffer),
  writeLogged: (at, buffer) => logged.write(BASE + at, buffer),
  bufferWrite: (at, buffer) => void buffer.copy(privateBytes, at),
  memcpyWrite: (at, _buffer, size, address) => void libc.memcpy(guestAddress + at, address, size),
};

/** The same memory with the dirty log on. */
const logged = new GuestMemoryMap();
logged.map({ iova: BASE, size: GUEST, prot: dmaProt.read | dmaProt.write, fd: dupFd(file), fdOffset: 0 });
const log = createDirtyLog({
  scope: 'precise',
  attach: (sink) => logged.setDirtySink(sink),
  memory: logged,
});
log.start(4096, []);

/** Nanoseconds per call, best of all turns: what the machine can do when it is left alone. */
function measure(size: number): Record<string, number> {
  const best: Record<string, number> = {};
  const buffer = Buffer.alloc(size, 3);
  const address = addressOf(buffer);
  const wanted = Math.floor(BYTES_PER_TURN / size);
  const calls = Math.max(CALLS_PER_TURN.least, Math.min(CALLS_PER_TURN.most, wanted));
  for (let turn = 0; turn < TURNS; turn += 1)
    for (const [name, candidate] of Object.entries(candidates)) {
      const start = process.hrtime.bigint();
      // Walks through memory as a device does, instead of copying one line in cache.
      for (let call = 0, at = 0; call < calls; call += 1, at = (at + size) % (GUEST - size))
        candidate(at, buffer, size, address);
      const spent = Number(process.hrtime.bigint() - start) / calls;
      best[name] = Math.min(best[name] ?? Number.POSITIVE_INFINITY, spent);
    }
  return best;
}

const rows = SIZES.map((size) => {
  const ns = measure(size);
  const of = (name: string) => ns[name] ?? Number.NaN;
  const ratio = (name: string, reference: string) => Number((of(reference) / of(name)).toFixed(2));
  return {
    bytes: size,
    readGBs: Number((size / of('read')).toFixed(2)),
    'read/copy': ratio('read', 'bufferRead'),
    'read/memcpy': ratio('read', 'memcpyRead'),
    writeGBs: Number((size / of('write')).toFixed(2)),
    'write/copy': ratio('write', 'bufferWrite'),
    'write/memcpy': ratio('write', 'memcpyWrite'),
    'logged/copy': ratio('writeLogged', 'bufferWrite'),
  };
});

/** Typed accesses, nanoseconds each. */
function word(access: (iova: number) => unknown): number {
  const calls = 1_000_000;
  let best = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < 5; turn += 1) {
    const start = process.hrtime.bigint();
    for (let call = 0; call < calls; call += 1) access(BASE + ((call * 64) & (GUEST - 1)));
    best = Math.min(best, Number(process.hrtime.bigint() - start) / calls);
  }
  return Number(best.toFixed(1));
}
const words = {
  readUint32BE: word((iova) => memory.readUint32BE(iova)),
  writeUint32BE: word((iova) => memory.writeUint32BE(iova, 1)),
  writeUint32BELogged: word((iova) => logged.writeUint32BE(iova, 1)),
};

if (process.argv.includes('--json')) console.log(JSON.stringify({ copies: rows, nanosecondsPerWord: words }));
else {
  console.table(rows);
  console.table(words);
}
