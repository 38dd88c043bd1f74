import { describe, expect, it } from 'vitest';
import { missing, streamsEqual } from '../../../qemu-scripts/demo-network.ts';

const pings = { sent: 100, lost: 0, duplicates: 0 };
const datagrams = {
  sent: 100,
  received: 100,
  missing: 0,
  hole: 0,
  reordered: 0,
  duplicates: 0,
  gapMs: 5,
  done: true,
  error: '',
};
const stream = {
  sent: 5,
  received: 5,
  sentHash: 'a',
  receivedHash: 'a',
  gapMs: 5,
  done: true,
  error: '',
};

describe('the demonstration with a network', () => {
  it('is content with traffic of which all arrived', () => {
    expect(missing(pings, { guest: datagrams, peer: datagrams })).toBeUndefined();
    expect(streamsEqual({ guest: stream, peer: stream })).toContain('as they were sent');
  });

  it('is not where nothing arrived, or something is wrong', () => {
    expect(missing({ ...pings, sent: 0 }, { guest: datagrams, peer: datagrams })).toContain('pings');
    for (const wrong of [{ received: 0 }, { missing: 1 }, { reordered: 1 }, { duplicates: 1 }])
      expect(missing(pings, { guest: datagrams, peer: { ...datagrams, ...wrong } })).toContain('the peer');
    for (const wrong of [{ receivedHash: 'b' }, { received: 0 }])
      expect(() => streamsEqual({ guest: { ...stream, ...wrong }, peer: stream })).toThrow(/TCP/);
  });
});
