/** What a reader of a report looks for first. */
import { comparisonUs, limitedBlackoutUs } from './blackout.ts';
import { bytes, duration, passes } from './format.ts';
import { whereabouts } from './summary.ts';
import type { DeviceReport, MigrationReport } from './types.ts';

export interface KeyFigure {
  readonly label: string;
  readonly value: string;
  readonly note: string;
  /** Whether it is as it should be; undefined: there is no telling. */
  readonly good?: boolean;
}

/** The figures of a migration, the most important one first. */
export function keyFigures(report: MigrationReport): KeyFigure[] {
  return [blackout(report), guest(report), ramProof(report), ...report.devices.map(device)];
}

function blackout(report: MigrationReport): KeyFigure {
  const label = 'Blackout';
  const { downtimeLimitMs } = report;
  const blackoutUs = limitedBlackoutUs(report);
  if (blackoutUs === null) return { label, value: '–', note: 'none was measured' };
  const compared = comparisonUs(report);
  const more = compared > 0 ? `; ${duration(compared)} more for the comparison that was asked for` : '';
  const note = `the limit was ${downtimeLimitMs} ms${more}`;
  return { label, value: duration(blackoutUs), note, good: blackoutUs <= 1000 * downtimeLimitMs };
}

function guest({ outcome, totalMs, ramBytes, rounds, qemu }: MigrationReport): KeyFigure {
  const seconds = `${(totalMs / 1000).toFixed(2)} s`;
  if (outcome !== 'migrated')
    return { label: 'Given up after', value: seconds, note: whereabouts[outcome], good: false };
  const note = `${bytes(ramBytes)} of RAM, ${passes(rounds)}; QEMU ${qemu.source} to ${qemu.destination}`;
  return { label: 'Migrated in', value: seconds, note };
}

function ramProof({ ram }: MigrationReport): KeyFigure {
  const label = 'RAM proof';
  if (ram === null) return { label, value: '–', note: 'RAM was not compared' };
  const { differing, pages, milliseconds } = ram;
  const note = `of ${pages} pages differ; compared in ${milliseconds.toFixed(0)} ms`;
  return { label, value: String(differing), note, good: differing === 0 };
}

function device({ id, model, stateEqual, msixTableEqual, ...rest }: DeviceReport): KeyFigure {
  const { configCompared, configDifferences, finalBytes, markedPages, carriedPages } = rest;
  const configuration = configDifferences.length > 0 ? false : configCompared;
  const checks = [
    ['state', stateEqual],
    ['configuration', configuration],
    ['MSI-X table', msixTableEqual],
  ] as const;
  const wrong = checks.filter(([, equal]) => equal === false).map(([what]) => what);
  const equal = checks.filter(([, same]) => same === true).map(([what]) => what);
  const carried = carriedPages > 0 ? ` and ${carriedPages} carried` : '';
  const moved = `${bytes(finalBytes)} in the blackout, ${markedPages} pages marked${carried}`;
  const label = `Device ${id} (${model})`;
  if (wrong.length > 0)
    return { label, value: 'not equal', note: `${wrong.join(', ')}; ${moved}`, good: false };
  if (equal.length > 0) return { label, value: 'equal', note: `${equal.join(', ')}; ${moved}`, good: true };
  return { label, value: '–', note: `not compared; ${moved}` };
}
