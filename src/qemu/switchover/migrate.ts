/** The companion switchover from its first connection to its report. */
import { CompanionError, reasonOf } from '../../errors.ts';
import type { DeviceReport, MigrationReport, Outcome } from '../../report/types.ts';
import { textAt } from '../answers.ts';
import { versionText } from '../qmp.ts';
import { check } from './check.ts';
import { commit } from './commit.ts';
import { connectAll, disconnectAll } from './connect.ts';
import { finish } from './final.ts';
import { endedInstead } from './guest-end.ts';
import { hintOf, type MigrateOptions, MigrationFailed } from './options.ts';
import { preCopy } from './precopy.ts';
import { quiesce } from './quiesce.ts';
import { replay } from './replay.ts';
import { rollback } from './rollback.ts';
import type { DeviceRun, Run } from './run.ts';
import { prepareQemus, tidyDestination } from './settings.ts';
import { setUp } from './setup.ts';
import { checkProof, verify } from './verify.ts';

/**
 * Migrates a running VM with its vfio-user devices to a QEMU that waits for it, and returns what happened.
 *
 * The commit point is `cont` at the destination. Whatever fails before it, the cancel signal included, ends
 * with the guest running at the source as if nothing had been tried and the destination QEMU ended. After
 * success the source QEMU stands in "postmigrate" and its servers are held: end them.
 *
 * @throws MigrationFailed with `outcome` (where the guest is) and `report`; `CompanionError` when not even all
 *   parties could be reached
 */
export async function migrate(options: MigrateOptions): Promise<MigrationReport> {
  const run = await connectAll(options);
  try {
    await steps(run);
    await run.enter('done').catch((error) => run.warn(String(error)));
    const report = reportOf(run, 'migrated', undefined);
    logBlackout(run, report);
    return report;
  } catch (error) {
    const cause = await explained(
      run,
      asCompanionError(run.progressed.committed ? error : (run.signal.reason ?? error)),
    );
    const phase = run.phase;
    run.log.debug({ phase, code: cause.code, reason: cause.message }, 'migration given up');
    run.fail(cause);
    const outcome = await rollback(run);
    throw new MigrationFailed(cause, outcome, reportOf(run, outcome, { cause, phase }));
  } finally {
    await disconnectAll(run);
  }
}

async function steps(run: Run): Promise<void> {
  await run.enter('connect');
  await run.enter('check');
  await run.until(check(run));
  checkProof(run);
  // From here on a failure ends the destination, wherever in the step it comes, unless `prepareQemus` says otherwise.
  run.progressed.touched = true;
  await run.enter('setup');
  await run.until(prepareQemus(run));
  await run.until(setUp(run));
  await run.enter('precopy');
  await preCopy(run);
  await run.enter('pre-switchover');
  await quiesce(run);
  await finish(run);
  await run.enter('replay');
  await replay(run);
  await verify(run);
  await run.enter('resume');
  await commit(run);
  await tidyDestination(run);
}

function asCompanionError(error: unknown): CompanionError {
  if (error instanceof CompanionError) return error;
  return new CompanionError('VC_INTERNAL', reasonOf(error), { cause: error });
}

/** What is behind a failure: a guest that has ended, or QEMU's own reason for that of its migration. */
async function explained(run: Run, cause: CompanionError): Promise<CompanionError> {
  const ended = run.progressed.committed ? undefined : await endedInstead(run, cause);
  if (ended !== undefined) return ended;
  if (cause.code !== 'VC_QEMU_MIGRATION' || !run.unfenced.open) return cause;
  const state = await run.unfenced.execute('query-migrate').catch(() => undefined);
  const reason = textAt(state, 'error-desc');
  const { code, message, hint } = cause;
  return reason === '' ? cause : new CompanionError(code, `${message} (${reason})`, { cause, hint });
}

function deviceReport(device: DeviceRun): DeviceReport {
  return {
    id: device.id,
    model: device.sourceInfo.model,
    stateBytes: device.sentBytes,
    finalBytes: device.finalBytes,
    markedPages: device.mark?.pages ?? 0,
    markingUs: Math.round(device.mark?.microseconds ?? 0),
    carriedPages: device.carriedPages,
    replayedRegisters: device.replayed,
    replayPath: device.replayPath,
    configCompared: device.configCompared,
    configDifferences: device.configDifferences,
    msixTableEqual: device.msixTableEqual,
    stateEqual: device.stateEqual,
  };
}

function reportOf(
  run: Run,
  outcome: Outcome,
  failure: { cause: CompanionError; phase: MigrationReport['phases'][number]['phase'] } | undefined,
): MigrationReport {
  const stopUs = run.timeline.zeroUs;
  const { cause, phase } = failure ?? {};
  const hint = cause === undefined ? undefined : hintOf(cause, outcome);
  return {
    outcome,
    startedAt: run.startedAt,
    totalMs: run.elapsedMs,
    blackoutUs: stopUs !== undefined && run.resumeUs !== undefined ? Math.round(run.resumeUs - stopUs) : null,
    downtimeLimitMs: run.downtimeLimitMs,
    rounds: run.rounds,
    ramBytes: run.ramBytes,
    timeline: run.timeline.spans(),
    samples: run.samples,
    phases: run.phases,
    devices: run.devices.map(deviceReport),
    ram: run.ram,
    qemu: { source: versionText(run.source.version), destination: versionText(run.destination.version) },
    error:
      cause === undefined || phase === undefined
        ? null
        : {
            code: cause.code,
            message: cause.message,
            ...(hint !== undefined && { hint }),
            phase,
          },
    warnings: run.warnings,
  };
}

function logBlackout(run: Run, report: MigrationReport): void {
  const parts = report.timeline.map(
    ({ part, device, startUs, endUs }) =>
      `${part}${device === undefined ? '' : `(${device})`} ${((endUs - startUs) / 1000).toFixed(2)}`,
  );
  run.log.info(
    `migrated in ${Math.round(report.totalMs)} ms, blackout ${report.blackoutUs === null ? '?' : (report.blackoutUs / 1000).toFixed(1)} ms: ${parts.join(', ')}`,
  );
}
