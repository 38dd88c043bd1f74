import type { MigrationReport } from './types.ts';

/** What the comparison took while the guest stood still, in microseconds: it was asked for, no limit covers it. */
export function comparisonUs({ timeline }: MigrationReport): number {
  return timeline
    .filter(({ part }) => part === 'verify')
    .reduce((sum, { startUs, endUs }) => sum + endUs - startUs, 0);
}

/** The blackout without that comparison, in microseconds: what the downtime limit is for. Null: none was measured. */
export function limitedBlackoutUs(report: MigrationReport): number | null {
  return report.blackoutUs === null ? null : Math.max(0, report.blackoutUs - comparisonUs(report));
}
