import type { MigrationReport, PrecopySample } from '../../../src/report/types.ts';

export function sample(elapsedMs: number): PrecopySample {
  return {
    elapsedMs,
    round: 2,
    ramRemaining: 1e6,
    ramTotal: 2e6,
    ramTransferred: 5e6,
    dirtyPagesRate: 10,
    devices: [{ id: 'nic0', initialBytes: 0, dirtyBytes: 100, sentBytes: 5000, dirtyPages: 12 }],
    estimateMs: 21,
    deviceEstimateMs: 9,
    held: false,
  };
}

export const aReport: MigrationReport = {
  outcome: 'migrated',
  startedAt: '2026-01-01T00:00:00.000Z',
  totalMs: 1234,
  blackoutUs: 31_400,
  downtimeLimitMs: 300,
  rounds: 2,
  ramBytes: 268_435_456,
  timeline: [
    { part: 'detect', startUs: 0, endUs: 400 },
    { part: 'marking', device: 'nic0', startUs: 900, endUs: 2900, note: '512 pages' },
  ],
  samples: [sample(0), sample(50)],
  phases: [],
  devices: [
    {
      id: 'nic0</script><b>',
      model: 'ram',
      stateBytes: 1000,
      finalBytes: 500,
      markedPages: 512,
      markingUs: 2000,
      carriedPages: 0,
      replayedRegisters: 5,
      replayPath: 'ecam',
      configCompared: true,
      configDifferences: [],
      msixTableEqual: true,
      stateEqual: true,
    },
  ],
  ram: { pages: 65_536, differing: 0, milliseconds: 60, first: [] },
  qemu: { source: '11.1.3', destination: '11.1.3' },
  error: null,
  warnings: [],
};
