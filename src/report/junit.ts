import { comparisonUs, limitedBlackoutUs } from './blackout.ts';
import type { DeviceReport, MigrationReport } from './types.ts';

/** All but `Char` of XML 1.0 (section 2.2): what can't stand in a document at all, not even escaped. */
const forbidden = /[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/gu;

function escapeXml(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
  // All of it stands in attributes, where a parser takes a line end that is not escaped for a space.
  return text
    .replace(forbidden, '')
    .replace(/[&<>"]/g, (c) => entities[c] ?? c)
    .replace(/[\t\n\r]/g, (c) => `&#${c.charCodeAt(0)};`);
}

interface Case {
  readonly name: string;
  readonly seconds: number;
  readonly failure?: string;
  /** Why it was not looked at. */
  readonly skipped?: string;
}

/** The migration as a JUnit test suite: one case for the migration, one for each thing that was compared. */
export function junitReport(report: MigrationReport): string {
  const cases: Case[] = [
    {
      name: 'migration',
      seconds: report.totalMs / 1000,
      ...(report.outcome === 'migrated' && report.error === null
        ? {}
        : { failure: report.error?.message ?? report.outcome }),
    },
  ];
  const blackoutUs = limitedBlackoutUs(report);
  if (blackoutUs !== null) {
    const ms = blackoutUs / 1000;
    const over = ms > report.downtimeLimitMs;
    const what = comparisonUs(report) === 0 ? '' : ' without the comparison';
    cases.push({
      name: 'blackout within the downtime limit',
      seconds: ms / 1000,
      ...(over ? { failure: `${ms.toFixed(1)} ms${what}, limit ${report.downtimeLimitMs} ms` } : {}),
    });
  }
  if (report.ram !== null) {
    const { differing, pages, milliseconds } = report.ram;
    cases.push({
      name: 'RAM is equal',
      seconds: milliseconds / 1000,
      ...(differing > 0 ? { failure: `${differing} of ${pages} pages differ` } : {}),
    });
  }
  for (const device of report.devices) {
    const name = `device ${device.id}`;
    if (device.stateEqual !== null)
      cases.push({
        name: `${name}: state is equal`,
        seconds: 0,
        ...(device.stateEqual ? {} : { failure: 'differs' }),
      });
    if (device.configCompared !== null)
      cases.push({
        name: `${name}: configuration${device.msixTableEqual === null ? ' is' : ' and MSI-X table are'} equal`,
        seconds: 0,
        ...configuration(device),
      });
  }
  const failures = cases.filter(({ failure }) => failure !== undefined).length;
  const skips = cases.filter(({ skipped }) => skipped !== undefined).length;
  const lines = cases.map(({ name, seconds, failure, skipped }) => {
    const open = `    <testcase classname="vfio-companion.migrate" name="${escapeXml(name)}" time="${seconds.toFixed(6)}"`;
    if (failure !== undefined) return `${open}><failure message="${escapeXml(failure)}"/></testcase>`;
    return skipped === undefined
      ? `${open}/>`
      : `${open}><skipped message="${escapeXml(skipped)}"/></testcase>`;
  });
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<testsuites>',
    `  <testsuite name="vfio-companion migrate" tests="${cases.length}" failures="${failures}" skipped="${skips}" timestamp="${escapeXml(report.startedAt)}" time="${(report.totalMs / 1000).toFixed(3)}">`,
    ...lines,
    '  </testsuite>',
    '</testsuites>',
    '',
  ].join('\n');
}

function configuration({
  configCompared,
  configDifferences,
  msixTableEqual,
}: DeviceReport): Pick<Case, 'failure' | 'skipped'> {
  const differing = [...configDifferences, ...(msixTableEqual === false ? ['MSI-X table differs'] : [])];
  if (differing.length > 0) return { failure: differing.join(', ') };
  return configCompared === true ? {} : { skipped: 'the device could not be reached for it' };
}
