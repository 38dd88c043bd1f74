import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/**
 * Projects: `fast` needs no guest (pure unit tests and tests of the protocol over sockets), `e2e`
 * boots real guests under QEMU. End-to-end files run two at a time: a guest that boots
 * fills one core, one that has booted leaves it nearly idle.
 */
/** Counts lost datagrams, and a guest under software emulation loses some when it gets too little of a core. */
const undisturbed = 'test/e2e/mlx5-traffic.test.ts';

/** How long `expect.poll` looks, unless a test says it: Vitest's second is short on a machine that has much else to do. */
const polling = { poll: { timeout: 30_000 } };

export default defineConfig({
  test: {
    reporters: ['default', './test/skips.ts'],
    projects: [
      {
        test: {
          name: 'fast',
          include: ['test/unit/**/*.test.ts', 'test/protocol/**/*.test.ts'],
          pool: 'forks',
          // One process for many files: starting each afresh took more time than all of the tests.
          isolate: false,
          // Many tests wait for timers or for processes that they start: 58 s with one worker more than there are processors (two), 46 with three more.
          maxWorkers: availableParallelism() + 3,
          sequence: { groupOrder: 0 },
          // For a machine on which much else runs: none of them takes more than a few seconds.
          testTimeout: 60_000,
          hookTimeout: 60_000,
          expect: polling,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          exclude: [undisturbed],
          pool: 'forks',
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
          testTimeout: 180_000,
          hookTimeout: 180_000,
          expect: polling,
        },
      },
      {
        test: {
          name: 'e2e-alone',
          include: [undisturbed],
          pool: 'forks',
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
          testTimeout: 180_000,
          hookTimeout: 180_000,
          expect: polling,
        },
      },
    ],
  },
});
