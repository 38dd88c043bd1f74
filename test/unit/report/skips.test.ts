import { expect, it } from 'vitest';
import { skippedLines } from '../../skips.ts';

it('tests that were skipped are told of by suite and reason', () => {
  const lines = skippedLines([
    { suite: 'a.test.ts > taps (no /dev/net/tun)', name: 'ping', note: '' },
    { suite: 'a.test.ts > taps (no /dev/net/tun)', name: 'jumbo', note: '' },
    { suite: 'b.test.ts', name: 'tcpdump reads it', note: 'no tcpdump' },
    { suite: 'b.test.ts', name: 'mounts', note: '' },
  ]);
  expect(lines).toEqual([
    'a.test.ts > taps (no /dev/net/tun): 2 tests',
    'b.test.ts [no tcpdump] > tcpdump reads it',
    'b.test.ts > mounts',
  ]);
});
