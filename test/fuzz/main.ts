/**
 * `make fuzz`. Sends generated messages to the native server until the time is over: FUZZ_SECONDS (default 60) says how
 * long. Then plays recorded sessions to the mlx5 model with mutations: FUZZ_MLX5 (default 100000) says how many. Then takes
 * as many steps with two mlx5 devices, of which one migrates and may not come to differ. FUZZ_SEED repeats a run. Exit
 * status 1, with the seed, when something goes wrong.
 */
import fc from 'fast-check';
import { fuzzEnd, fuzzMessage } from './generate.ts';
import { fuzzRecordings } from './mlx5/run.ts';
import { fuzzTwins } from './mlx5/twins.ts';
import { FuzzTarget, openDescriptors } from './target.ts';

const seconds = Number(process.env.FUZZ_SECONDS ?? 60);
const firstSeed = Number(process.env.FUZZ_SEED ?? Date.now() & 0x7fff_ffff);
const end = performance.now() + seconds * 1000;
const conversation = fc.tuple(
  fc.array(fuzzMessage, { minLength: 1, maxLength: 200, size: 'max' }),
  fc.option(fuzzEnd),
);

let sent = 0;
let answered = 0;
let seed = firstSeed;

try {
  do {
    const before = openDescriptors();
    for (const role of ['device', 'migration'] as const) {
      const target = new FuzzTarget(role);
      fc.assert(
        fc.property(conversation, ([messages, last]) => {
          for (const message of messages) target.send(message);
          if (last !== null) {
            target.send(last);
            target.hangUp();
          }
          return target.alive();
        }),
        { numRuns: 50, seed, endOnFailure: true },
      );
      sent += target.sent;
      answered += target.answered;
      target.close();
    }
    const after = openDescriptors();
    // Fewer are none of ours: Node closes one of its own soon after it has begun.
    if (after > before) throw new Error(`${after - before} descriptors leaked`);
    seed = (seed + 1) & 0x7fff_ffff;
  } while (performance.now() < end);
  console.log(
    `fuzz: ${sent} messages, ${answered} answers, seeds ${firstSeed} to ${seed - 1}: nothing found`,
  );
  const ofMlx5 = Number(process.env.FUZZ_MLX5 ?? 100_000);
  for (const line of fuzzRecordings(firstSeed, ofMlx5)) console.log(line);
  console.log(fuzzTwins(firstSeed, ofMlx5));
} catch (error) {
  console.error(error);
  console.error(`fuzz: failed with FUZZ_SEED=${seed}`);
  process.exitCode = 1;
}
