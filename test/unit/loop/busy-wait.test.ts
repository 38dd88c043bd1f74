import { describe, expect, it } from 'vitest';
import { BusyWait, CHECK_SPINS, CONTENDED, HOLD_ROUNDS, TRIAL_ROUNDS } from '../../../src/loop/busy-wait.ts';

const LIMIT = 50_000;
/** What the kernel interrupts this very process for is not what is tested. */
const undisturbed = () => 0;

/** Plays rounds as a reactor does; returns the share of them that busy-waited. */
function play(wait: BusyWait, rounds: number, gap: { spinning: number; sleeping: number }): number {
  let spun = 0;
  for (let count = 0; count < rounds; count += 1) {
    const { budget } = wait;
    const ns = budget > 0 ? gap.spinning : gap.sleeping;
    if (budget > 0) {
      spun += 1;
      wait.spun();
    }
    if (ns > budget) wait.slept(ns);
    if (wait.measuring) wait.round(ns);
  }
  return spun / rounds;
}

describe('BusyWait', () => {
  const cycle = HOLD_ROUNDS + 2 * TRIAL_ROUNDS;

  it('waits for what comes soon, and covers twice the gap at most', () => {
    const wait = new BusyWait(LIMIT, undisturbed);
    expect(wait.budget).toBe(0);
    wait.slept(7_000);
    expect(wait.budget).toBe(14_000);
    wait.slept(40_000);
    expect(wait.budget).toBe(LIMIT);
    expect(play(wait, 2 * cycle, { spinning: 5_000, sleeping: 25_000 })).toBeGreaterThan(0.95);
  });

  it('waits always and in full where it has been given a processor', () => {
    let interruptions = 0;
    const counted = () => (interruptions += 100);
    const wait = new BusyWait(LIMIT, counted, true);
    expect(wait.budget).toBe(LIMIT);
    for (let count = 0; count < 2 * CHECK_SPINS; count += 1) wait.spun();
    wait.slept(100 * LIMIT);
    wait.idle();
    expect(wait.budget).toBe(LIMIT);
    expect(play(wait, cycle, { spinning: 45_000, sleeping: 25_000 })).toBe(1);
    // Nobody asks: that costs system calls of its own.
    expect(interruptions).toBe(0);
    expect(wait.measuring).toBe(false);
  });

  it('gives up where it makes rounds longer, and comes back when that has changed', () => {
    const wait = new BusyWait(LIMIT, undisturbed);
    wait.slept(10_000);
    const contended = { spinning: 45_000, sleeping: 25_000 };
    expect(play(wait, 2 * cycle, contended)).toBeLessThan(0.05);
    expect(play(wait, 3 * cycle, { spinning: 5_000, sleeping: 25_000 })).toBeGreaterThan(0.6);
  });

  it('gives up where others want the processor, however short its rounds are, and comes back', () => {
    let interruptions = 0;
    let every = 2;
    let asked = 0;
    const wait = new BusyWait(LIMIT, () => {
      asked += 1;
      interruptions += CHECK_SPINS / every;
      return interruptions;
    });
    const shorter = { spinning: 5_000, sleeping: 25_000 };
    wait.slept(10_000);
    expect(play(wait, 2 * cycle, shorter)).toBeLessThan(0.05);
    every = (2 * CHECK_SPINS) / CONTENDED;
    expect(play(wait, 3 * cycle, shorter)).toBeGreaterThan(0.6);
    expect(asked).toBeGreaterThan(10);
    expect(asked).toBeLessThan((5 * cycle) / 20);
  });

  it('stops when nothing comes soon', () => {
    const wait = new BusyWait(LIMIT, undisturbed);
    wait.slept(20_000);
    for (let count = 0; count < 10; count += 1) wait.slept(10 * LIMIT);
    expect(wait.budget).toBe(0);
    wait.slept(20_000);
    for (let count = 0; count < 10; count += 1) wait.idle();
    expect(wait.budget).toBe(0);
  });

  it('never waits with a limit of 0', () => {
    const wait = new BusyWait(0);
    expect(play(wait, 1000, { spinning: 1, sleeping: 1 })).toBe(0);
    wait.slept(0);
    expect(wait.budget).toBe(0);
  });
});
