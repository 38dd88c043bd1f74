import { defineConfig } from 'vitest/config';

/**
 * Two projects: `fast` needs no guest (pure unit tests and tests of the protocol over sockets), `e2e`
 * boots real guests under QEMU. End-to-end files run one at a time: two QEMUs already fill two cores.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'fast',
          include: ['test/unit/**/*.test.ts', 'test/protocol/**/*.test.ts'],
          pool: 'forks',
          // One process for many files: starting each afresh took more time than all of the tests.
          isolate: false,
          testTimeout: 20_000,
          hookTimeout: 20_000,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          pool: 'forks',
          fileParallelism: false,
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
