import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { checkoutRoot } from '../../../src/setup/index.ts';
import { memoryBytes } from '../../unit/mlx5/fake-host.ts';
import { type Recording, unpackRecording } from './recording.ts';
import { Replay, type ReplayFigures } from './replay.ts';
import { recordFakeDriver } from './session.ts';

/** Mutated messages of one session. */
const perSession = 200;
/** Sessions between two checks that a faithful play still works. */
const sessionsPerCheck = 10;
/** Growth of the heap, once all is warm, that is no leak. */
const heapSlack = 16 * 1024 * 1024;

function heapUsed(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed;
}

export interface FuzzOutcome extends ReplayFigures {
  /** Bytes that the heap grew between the end of the first tenth and the end. */
  readonly heapGrowth: number;
  readonly recordedSteps: number;
}

/**
 * Plays `recording` with at least `mutations` mutated messages. Throws, and names the seed, when the device does something
 * that it may not: an exception, endless work, an access that is none, something left behind.
 */
export function fuzzRecording(recording: Recording, seed: number, mutations: number): FuzzOutcome {
  const replay = new Replay(recording, memoryOf(recording));
  let sessionSeed = seed;
  let warm: number | undefined;
  try {
    while (replay.figures.mutated < mutations) {
      if (warm === undefined && replay.figures.mutated >= mutations / 10) warm = heapUsed();
      replay.hostileSession(sessionSeed, Math.min(perSession, mutations));
      if (replay.figures.sessions % sessionsPerCheck === 0 && !replay.stillFaithful())
        throw new Error('a reset did not bring the device back');
      sessionSeed = (sessionSeed + 1) >>> 0;
    }
    if (!replay.stillFaithful()) throw new Error('a reset did not bring the device back');
    const heapGrowth = warm === undefined ? 0 : heapUsed() - warm;
    if (heapGrowth > heapSlack) throw new Error(`the heap grew by ${heapGrowth} bytes`);
    return { ...replay.figures, heapGrowth, recordedSteps: recording.steps.length };
  } catch (error) {
    throw new Error(`mlx5 failed with seed ${sessionSeed}`, { cause: error });
  } finally {
    replay.close();
  }
}

/** Guest memory that holds all that was read, in whole MiB; what lies beyond the first GiB is left out of a play. */
export function memoryOf({ steps }: Recording): number {
  const mib = 1024 * 1024;
  let end = memoryBytes;
  for (const { memory } of steps) for (const { at, bytes } of memory) end = Math.max(end, at + bytes.length);
  return Math.min(1023 * mib, Math.ceil(end / mib) * mib);
}

/** The fake driver's session and those of real guests (see `record-guest.ts`). */
export function* recordings(): Iterable<[string, Recording]> {
  yield ['the fake driver', recordFakeDriver()];
  const folder = join(checkoutRoot(), 'test/fuzz/recordings');
  for (const name of readdirSync(folder)) yield [name, unpackRecording(readFileSync(join(folder, name)))];
}

/** Fuzzes with every recording there is; yields what to tell about each. */
export function* fuzzRecordings(seed: number, mutations: number): Iterable<string> {
  for (const [name, recording] of recordings()) {
    const { messages, mutated, states, statesRefused, mostWork, heapGrowth, recordedSteps } = fuzzRecording(
      recording,
      seed,
      mutations,
    );
    yield `mlx5, recording of ${name} (${recordedSteps} steps): ${mutated} mutated of ${messages} messages, ` +
      `${states} hostile states (${statesRefused} refused), at most ${mostWork} accesses for one message, ` +
      `heap +${Math.round(heapGrowth / 1024)} KiB: nothing found`;
  }
}
