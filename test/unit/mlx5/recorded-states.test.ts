/** States that were saved by older versions of the model: each has to load for good. */
import { readdirSync, readFileSync } from 'node:fs';
import { pack, unpack } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import type { StateRecord } from '../../../src/device/index.ts';
import { FakeHost } from './fake-host.ts';
import { bench, testMac } from './setup.ts';
import { recordedAge, recordedChannels, recordedFrames } from './states/record.ts';

const folder = new URL('./states/', import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith('.bin'));
const words = 2 ** 32;

type Fields = Record<string, unknown>;

/** What later versions have made of a record of version 1: the clock in two words, a factory address of its own, whether the address is known. */
function asNow(record: StateRecord): unknown {
  if (record.section !== 'device' || !('value' in record)) return record;
  const value = record.value as Fields;
  const clock =
    typeof value.cycles === 'number'
      ? { high: Math.floor(value.cycles / words), low: value.cycles % words }
      : value.cycles;
  return {
    ...record,
    value: {
      ...value,
      cycles: clock,
      vport: { ...(value.vport as Fields), factoryMac: undefined, known: undefined },
    },
  };
}

describe.each(files)('the state recorded as %s', (file) => {
  const version = Number(/^v(\d+)\.bin$/.exec(file)?.[1]);
  const records = unpack(readFileSync(new URL(file, folder))) as StateRecord[];
  const load = (as: number): ReturnType<typeof bench> => {
    const host = new FakeHost();
    host.mayInitiate = false;
    const made = bench(recordedChannels + 2, host);
    made.device.reset('client');
    made.device.migration.beginLoad(as);
    for (const record of records) made.device.migration.load(record);
    made.device.migration.endLoad();
    return made;
  };

  it('loads, and is the same card when it is saved again', () => {
    const { device } = load(version);
    const again = unpack(pack([...device.migration.save()])) as StateRecord[];
    expect(again.map(asNow)).toEqual(records.map(asNow));
    const { high, low } = device.core.clock.cycles();
    expect(high * words + low).toBe(recordedAge);
    expect(device.core.counters.vport.rx.packets[0]).toBe(recordedFrames);
    expect(Buffer.from(device.core.vport.mac).toString('hex')).toBe(testMac.replaceAll(':', ''));
  });
});

it('there is one of every version that the model loads', () => {
  const recorded = files.map((name) => Number(/\d+/.exec(name)?.[0])).sort();
  const { first, current } = stateVersions;
  expect(recorded).toEqual(Array.from({ length: current - first + 1 }, (_, index) => first + index));
});
