/**
 * Records the states that `recorded-states.test.ts` keeps loading. Run it once for each released version of the state of
 * `mlx5`, under that number, and never again for an old one:
 *
 *     npm run build && node dist/test/unit/mlx5/states/record.js v2
 *
 * What is recorded: a card with two channels in use, a VLAN, ten frames received and one sent, stopped.
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { pack } from 'msgpackr';
import { FakeHost } from '../fake-host.ts';
import { buildFrame } from '../frames.ts';
import { type Bench, running } from '../setup.ts';

export const recordedChannels = 2;
export const recordedFrames = 10;
/** Age of the recorded card, ns. */
export const recordedAge = 2_999_000_001;

export function recordedCard(): Bench {
  const made = running(recordedChannels);
  const frame = buildFrame({ dst: made.driver.mac, payload: Buffer.alloc(100, 1) });
  for (let index = 0; index < recordedFrames; index++) made.port.inject(frame);
  made.driver.send(frame);
  made.driver.poll();
  made.host.advance(new FakeHost().time + recordedAge - made.host.time);
  made.host.mayInitiate = false;
  made.device.quiesce();
  return made;
}

const version = process.argv[2];
if (process.argv[1] === fileURLToPath(import.meta.url) && version !== undefined) {
  const records = [...recordedCard().device.migration.save()];
  writeFileSync(`test/unit/mlx5/states/${version}.bin`, pack(records), { flag: 'wx' });
}
