import { describe, expect, it } from 'vitest';
import { type ConvergenceSample, decide } from '../../../src/qemu/convergence.ts';

const options = {
  downtimeLimitMs: 100,
  maxSeconds: 60,
  maxRounds: 30,
  firstRamLimitMs: 10,
  fixedMs: 4,
  markMicrosecondsPerPage: 2,
};

function sample(more: Partial<ConvergenceSample> = {}): ConvergenceSample {
  return {
    elapsedMs: 1000,
    round: 1,
    roundsSeen: 1,
    ramRemaining: 1e6,
    ramExpectedMs: 20,
    ramStillMs: 0,
    deviceRate: 1e5,
    devices: [{ id: 'nic0', initialBytes: 0, finalBytes: 1e6, dirtyPages: 1000, carryMs: 0 }],
    ...more,
  };
}

describe('decide', () => {
  it('adds state, marking and replay up, and gives QEMU a small limit first', () => {
    expect(decide(options, sample())).toEqual({ hold: false, ramLimitMs: 10, deviceEstimateMs: 4 + 10 + 2 });
  });

  it('holds QEMU while a first pass is under way', () => {
    const devices = [{ id: 'nic0', initialBytes: 1, finalBytes: 0, dirtyPages: 0, carryMs: 0 }];
    expect(decide(options, sample({ devices })).hold).toBe(true);
  });

  it('holds QEMU while the devices alone are over the limit', () => {
    const devices = [{ id: 'nic0', initialBytes: 0, finalBytes: 2e7, dirtyPages: 0, carryMs: 0 }];
    const decision = decide(options, sample({ devices }));
    expect(decision.hold).toBe(true);
    expect(decision.giveUp).toBeUndefined();
  });

  it('allows QEMU more as rounds go by, never more than what the devices leave', () => {
    const limits = [1, 4, 7, 10, 13, 28].map((round) => decide(options, sample({ round })).ramLimitMs);
    expect(limits).toEqual([10, 10, 20, 40, 80, 84]);
  });

  it('gives up by rounds or time and says what would have been needed', () => {
    const byRounds = decide(options, sample({ round: 31, roundsSeen: 31, ramExpectedMs: 500 }));
    expect(byRounds.giveUp).toEqual({
      reason: expect.stringMatching(/after 30 rounds: the guest dirties its RAM/),
      neededMs: 516,
    });
    expect(decide(options, sample({ round: 31, roundsSeen: 30 })).giveUp).toBeUndefined();
    const devices = [{ id: 'nic0', initialBytes: 0, finalBytes: 2e7, dirtyPages: 0, carryMs: 0 }];
    const byTime = decide(options, sample({ elapsedMs: 61_000, devices }));
    expect(byTime.giveUp?.reason).toMatch(/after 60 s: the devices alone need about 204 ms/);
  });

  it('does not take a way that has been stuck for a guest that is too busy', () => {
    const late = { elapsedMs: 61_000, ramStillMs: 55_000 };
    expect(decide(options, sample(late)).giveUp).toEqual({
      reason: 'not converged after 60 s: nothing of RAM has been sent for 55 s (1000000 bytes remain)',
      neededMs: undefined,
    });
    const idle = decide(options, sample({ ...late, ramRemaining: 0 })).giveUp;
    expect(idle?.reason).not.toContain('sent for');
    expect(idle?.neededMs).toBeGreaterThan(0);
  });
});
