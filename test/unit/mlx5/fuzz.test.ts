import { describe, expect, it } from 'vitest';
import type { Mlx5Device } from '../../../device-models/mlx5/index.ts';
import { packRecording, unpackRecording } from '../../fuzz/mlx5/recording.ts';
import { Replay } from '../../fuzz/mlx5/replay.ts';
import { fuzzRecording, memoryOf, recordings } from '../../fuzz/mlx5/run.ts';
import { recordFakeDriver } from '../../fuzz/mlx5/session.ts';
import { memoryBytes } from './fake-host.ts';

const recording = recordFakeDriver();

describe('a recorded session', () => {
  it('has the same effect when it is played without its driver, and is small', () => {
    const packed = packRecording(recording);
    expect(packed.length).toBeLessThan(64 * 1024);
    const replay = new Replay(unpackRecording(packed), memoryBytes);
    const [frames, interrupts] = replay.expected;
    expect(frames).toBeGreaterThan(80);
    expect(interrupts).toBeGreaterThan(300);
    expect(replay.stillFaithful()).toBe(true);
    replay.close();
  });

  it('of a real guest has its effect: frames leave, interrupts are fired', () => {
    for (const [name, real] of recordings()) {
      const replay = new Replay(real, memoryOf(real));
      const [frames, interrupts] = replay.expected;
      expect(frames, name).toBeGreaterThan(10);
      expect(interrupts, name).toBeGreaterThan(300);
      expect(replay.refused, name).toBeLessThan(20);
      replay.hostileSession(1, 100);
      expect(replay.stillFaithful(), name).toBe(true);
      replay.close();
    }
  });

  it('does no harm with mutations; `make fuzz` plays many more', () => {
    const outcome = fuzzRecording(recording, 20_000, 3_000);
    expect(outcome.mutated).toBeGreaterThanOrEqual(3_000);
    expect(outcome.states).toBeGreaterThan(30);
    expect(outcome.statesRefused).toBeLessThan(outcome.states);
  });

  it('shows it when a model does harm', () => {
    const harms: Record<string, readonly [RegExp, (device: Mlx5Device) => void]> = {
      'an exception in a command': [
        /error of its own/,
        ({ core }) => {
          core.function.current = () => JSON.parse('');
        },
      ],
      'an address that is none': [
        /asked for a read of 64 bytes at -64/,
        ({ core }) => {
          core.eqs.doorbell = () => {
            expect(() => core.host.dma.read(-64, Buffer.alloc(64))).toThrow();
          };
        },
      ],
      'a loop': [
        /endless work/,
        ({ core }) => {
          core.sqs.doorbell = () => {
            for (;;) core.host.dma.read(0, Buffer.alloc(4));
          };
        },
      ],
      'a timer that is left': [
        /timers are left/,
        ({ core }) => {
          core.sqs.doorbell = () => void core.host.timer(() => {});
        },
      ],
      'a state that does not load': [
        /vport.mtu is not a whole number/,
        ({ core }) => {
          Object.defineProperty(core.vport, 'mtu', { get: () => 70_000, set: () => {} });
        },
      ],
      'an object that is left': [
        /of pd are left/,
        ({ core }) => {
          core.pds.clear = () => {};
        },
      ],
    };
    for (const [what, [message, plant]] of Object.entries(harms)) {
      const run = () => {
        const replay = new Replay(recording, memoryBytes, plant);
        for (let seed = 1; seed <= 2; seed++) replay.hostileSession(seed, 50);
      };
      expect(run, what).toThrow(message);
    }
  });
});
