import { describe, expect, test } from 'vitest';
import { AnswerLook } from '../../../src/net/answer-look.ts';

const rareNs = 1_000_000;

/**
 * Sends so many frames, each `apartNs` after the one before, of which `answered` get an answer at once; returns how often
 * it was looked for one.
 */
function looks(
  look: AnswerLook,
  frames: number,
  answered: (frame: number) => boolean,
  apartNs = rareNs,
): number {
  let count = 0;
  for (let frame = 0; frame < frames; frame++) {
    if (!look.worthwhile(frame * apartNs)) continue;
    count++;
    look.looked(answered(frame));
  }
  return count;
}

describe('looking for an answer to a frame', () => {
  test('goes on as long as there are answers, single misses included', () => {
    expect(looks(new AnswerLook(), 1000, () => true)).toBe(1000);
    expect(looks(new AnswerLook(), 1000, (frame) => frame % 2 === 0)).toBe(1000);
  });

  test('is left to the loop while frames follow each other closely', () => {
    expect(looks(new AnswerLook(), 1000, () => true, rareNs / 10)).toBe(1);
  });

  test('is given up where nobody answers, but for a try now and then', () => {
    const look = new AnswerLook();
    expect(looks(look, 10_000, () => false)).toBeLessThan(15);
    // The tries that are left are far apart, and bounded.
    expect(looks(look, 100_000, () => false)).toBeLessThanOrEqual(100_000 / 4096 + 1);
  });

  test('is taken up again by the first answer that a try finds', () => {
    const look = new AnswerLook();
    looks(look, 100, () => false);
    expect(looks(look, 10_000, () => true)).toBeGreaterThan(9_800);
  });
});
