import { describe, expect, it } from 'vitest';
import type { StateRecord } from '../../../src/device/index.ts';
import { runTwins, Twins } from '../../fuzz/mlx5/twins.ts';

describe('two guests that give the same commands at random, one of which migrates', () => {
  it('see the same; `make fuzz` compares many more', () => {
    const { commands, accepted, migrations, sent, received, fired } = runTwins(1, 2000);
    // The comparison means nothing if little of it worked.
    expect(accepted).toBeGreaterThan(commands / 2);
    expect(migrations).toBeGreaterThan(20);
    expect(Math.min(sent, received)).toBeGreaterThan(10);
    expect(fired).toBeGreaterThan(200);
  });

  it('would differ if the device kept something to itself', () => {
    /** A record as a model would save it that has no such field. */
    const forgotten = (section: string, field: string, value: unknown) => (record: StateRecord) => {
      if (record.section !== section || !('value' in record)) return record;
      return { section, value: { ...(record.value as object), [field]: value } };
    };
    const run = (onTheWay: (record: StateRecord) => StateRecord) => () => {
      for (let seed = 1; seed < 5; seed++) new Twins(seed, onTheWay).run(100);
    };
    expect(run((record) => record)).not.toThrow();
    expect(run(forgotten('mkey', 'localWrite', false))).toThrow(/the state that arrived is another/);
    expect(run(forgotten('rqt', 'maxSize', 1024))).toThrow(/the state that arrived is another/);
  });
});
