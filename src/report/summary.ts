import { comparisonUs, limitedBlackoutUs } from './blackout.ts';
import { bytes, duration, passes } from './format.ts';
import type { DeviceReport, MigrationReport, Outcome } from './types.ts';

/** Where the guest is that was not migrated. */
export const whereabouts: Readonly<Record<Exclude<Outcome, 'migrated'>, string>> = {
  source: 'the guest runs at the source',
  ended: 'the guest had ended by itself, and nothing is lost',
  lost: 'the guest is lost',
  unknown: 'where the guest runs is unknown',
};

/** The report as text for people: what happened, the blackout's parts, what was checked. */
export function summary(report: MigrationReport): string {
  const lines: string[] = [];
  const compared = comparisonUs(report);
  const more = compared === 0 ? '' : `, and ${duration(compared)} more for the comparison that was asked for`;
  const blackoutUs = limitedBlackoutUs(report);
  const standstill =
    blackoutUs === null
      ? 'no blackout was measured, as of a guest that is paused'
      : `the guest stood still for ${duration(blackoutUs)} (limit ${report.downtimeLimitMs} ms)${more}`;
  lines.push(
    report.outcome === 'migrated'
      ? `Migrated in ${(report.totalMs / 1000).toFixed(2)} s; ${standstill}.`
      : `Not migrated; ${whereabouts[report.outcome]}.`,
  );
  if (report.error !== null) {
    lines.push(`error: ${report.error.message} [${report.error.code}]`);
    if (report.error.hint !== undefined) lines.push(`hint: ${report.error.hint}`);
  }
  lines.push(
    `RAM ${bytes(report.ramBytes)}, ${passes(report.rounds)}; QEMU ${report.qemu.source} to ${report.qemu.destination}.`,
  );
  if (report.timeline.length > 0) {
    lines.push('', 'Blackout, from the stop of the vCPUs:');
    for (const { part, device, startUs, endUs, note } of report.timeline) {
      const name = device === undefined ? part : `${part} ${device}`;
      const at = `+${(startUs / 1000).toFixed(2)} ms`;
      lines.push(
        `  ${name.padEnd(24)} ${duration(endUs - startUs).padStart(10)}  ${at.padStart(12)}  ${note ?? ''}`.trimEnd(),
      );
    }
  }
  lines.push('');
  for (const device of report.devices) {
    const checks = [
      configuration(device),
      device.msixTableEqual === null ? '' : `MSI-X table ${device.msixTableEqual ? 'equal' : 'DIFFERS'}`,
      device.stateEqual === null ? '' : `state ${device.stateEqual ? 'equal' : 'DIFFERS'}`,
    ].filter((text) => text !== '');
    lines.push(
      `${device.id} (${device.model}): ${bytes(device.stateBytes)} of state, ${bytes(device.finalBytes)} of it in the blackout, ${device.markedPages} pages marked${device.carriedPages > 0 ? `, ${device.carriedPages} carried` : ''}${checks.length > 0 ? `; ${checks.join('; ')}` : ''}`,
    );
  }
  if (report.ram !== null)
    lines.push(
      `RAM proof: ${report.ram.differing} of ${report.ram.pages} pages differ (${report.ram.milliseconds.toFixed(0)} ms).`,
    );
  for (const warning of report.warnings) lines.push(`warning: ${warning}`);
  return lines.join('\n').trimEnd();
}

function configuration({ configCompared, configDifferences }: DeviceReport): string {
  if (configDifferences.length > 0) return `differs: ${configDifferences.join(', ')}`;
  if (configCompared === null) return '';
  return configCompared ? 'configuration equal' : 'configuration NOT COMPARED';
}
