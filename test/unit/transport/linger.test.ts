import { describe, expect, it } from 'vitest';
import { Linger } from '../../../src/transport/linger.ts';

/** Times that `receive` was tried in one go. */
function triesOf(linger: Linger, finds: (tries: number) => boolean): number {
  let tries = 0;
  linger.for(() => {
    tries += 1;
    return finds(tries);
  });
  return tries;
}

const never = () => false;

describe('lingering after a read', () => {
  it('goes on as long as it finds the next request', () => {
    const linger = new Linger();
    for (let read = 0; read < 100; read++) expect(triesOf(linger, (tries) => tries === 5)).toBe(5);
  });

  it('pauses after it was in vain, longer and longer, and takes up again when it pays', () => {
    const linger = new Linger();
    const pauses: number[] = [];
    let pause = 0;
    for (let read = 0; read < 2000; read++) {
      if (triesOf(linger, never) === 0) pause += 1;
      else {
        pauses.push(pause);
        pause = 0;
      }
    }
    expect(pauses.slice(0, 2)).toEqual([0, 0]);
    const later = pauses.slice(2);
    expect(later.length).toBeGreaterThan(2);
    expect(later).toEqual([...later].sort((a, b) => a - b));
    // One find is enough to be back.
    while (triesOf(linger, () => true) === 0);
    expect(triesOf(linger, never)).toBeGreaterThan(0);
  });
});
