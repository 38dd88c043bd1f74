/** Step 3: RAM by QEMU and device state by us, side by side, until a switchover is short enough. */
import type { PrecopySample } from '../../report/types.ts';
import { numberAt, textAt } from '../answers.ts';
import { type ConvergenceOptions, type Decision, type DeviceSample, decide } from '../convergence.ts';
import { refusal } from '../errors.ts';
import { pagesToCarry, prepareCarrying } from './carry.ts';
import { anticipate } from './final.ts';
import { Pauses } from './pauses.ts';
import { preset } from './preset.ts';
import { pump, pumpRate } from './pump.ts';
import type { DeviceRun, Run } from './run.ts';
import { holdLimitMs } from './settings.ts';
import { canPreCopy } from './setup.ts';
import { assumedCost, type SwitchoverCosts, warmUp } from './warm-up.ts';

const pollMs = 50;
/** While QEMU is held it sends RAM at this rate, bytes a second: it can't reach the end of a pass. */
const heldBandwidth = 64 * 1024;
/**
 * With less RAM than this to go QEMU is held by bandwidth, too: its `downtime-limit` alone does not stop it
 * when the guest is idle and nothing remains.
 */
const heldBelowBytes = 256 * 1024 * 1024;
/** Copying one page, until it has been measured. */
const assumedCarryMicroseconds = 2;
/** Dirty device state that is not worth a transfer of its own before the end. */
const smallDirtyBytes = 64 * 1024;

export async function preCopy(run: Run): Promise<void> {
  const limits: ConvergenceOptions = {
    downtimeLimitMs: run.downtimeLimitMs,
    maxSeconds: run.options.maxSeconds ?? 300,
    maxRounds: run.options.maxRounds ?? 60,
    firstRamLimitMs: run.options.firstRamLimitMs ?? 10,
    ...assumedCost,
  };
  const pauses = new Pauses();
  const stopped = run.source
    .waitFor('MIGRATION', ({ data }) => data.status === 'pre-switchover', {
      timeoutMs: (limits.maxSeconds + 60) * 1000,
      signal: run.signal,
      after: 0,
    })
    .finally(() => {
      run.progressed.stopped = true;
      // Ends sleeps, which can wait until the blackout's first requests are out.
      setImmediate(() => pauses.end());
    });
  stopped.catch(() => undefined);
  const costs: SwitchoverCosts = { ...assumedCost };
  const governor = new Governor(run, limits, costs);
  const started = performance.now();
  const beat = async (): Promise<void> => {
    while (!run.progressed.stopped) {
      await heartbeat(run);
      for (const device of run.devices) if (!run.progressed.stopped) await preset(run, device);
      await pauses.sleep(heartbeatMs);
    }
  };
  const poll = async (): Promise<void> => {
    while (!run.progressed.stopped) {
      await governor.look(performance.now() - started);
      await pauses.sleep(pollMs);
    }
  };
  const near = (): boolean => governor.near;
  const tooLong = (): boolean => governor.tooLong;
  const beats = beat();
  const feeds = run.devices.map((device) => {
    device.fed = feed(run, device, pauses, near);
    return device.fed;
  });
  const carryings = run.devices.map((device) => prepareCarrying(run, device));
  const work = Promise.all([beats, poll(), warmUp(run, costs, pauses, tooLong), ...feeds, ...carryings]);
  // What is under way when the CPUs stop need not be waited for yet; until then, its failure is ours.
  await run.until(Promise.race([stopped, work.then(() => stopped)]));
  // Registers may just be on their way to the destination; mostly they are not.
  run.settled = beats;
}

/** The destination is asked for a sign of life so often: a stopped one would only be noticed as a stall. */
const heartbeatMs = 1000;

async function heartbeat(run: Run): Promise<void> {
  const parties = run.devices.map(({ destination }) => destination.state());
  await Promise.all([run.destination.execute('query-status'), ...parties]);
}

/** With more RAM than this to go the switchover is not so near that the servers have to come to rest. */
const quietBelowBytes = 1024 ** 3;

/** State moved between two looks at how much is left. */
const portionBytes = 16 * 1024 * 1024;

/** Between two looks at a device when the switchover is near. */
const nearMs = 3;
/** A guest that dirties its memory faster than it is sent is not looked at so often for ever. */
const longestNearMs = 2000;

/**
 * Keeps one device's precopy stream flowing until the vCPUs stop. When the switchover is `near`, every change is moved at once:
 * little is left then, and nobody falls asleep, after which the same work takes several times as long.
 */
async function feed(run: Run, device: DeviceRun, pauses: Pauses, near: () => boolean): Promise<void> {
  const stopped = (): boolean => run.progressed.stopped;
  const { source, destination } = device;
  while (!stopped()) {
    if (near()) await Promise.all([source.info(), destination.info()]);
    const moved = canPreCopy(device) && !stopped() ? await feedOnce(device, near, stopped) : 0;
    if (moved === 0) await pauses.sleep(near() ? nearMs : pollMs);
  }
}

async function feedOnce(device: DeviceRun, near: () => boolean, stopped: () => boolean): Promise<number> {
  const info = await device.source.precopyInfo();
  if (stopped()) return 0;
  device.initialBytes = info.initialBytes;
  device.dirtyBytes = info.dirtyBytes;
  const worth = info.initialBytes > 0 || info.dirtyBytes > (near() ? 0 : smallDirtyBytes);
  device.feeding = worth;
  const moved = worth ? await pump(device, portionBytes, stopped) : 0;
  device.feeding = false;
  // What changes all the time would be moved all the time.
  return near() ? 0 : moved;
}

/** Pages that would be marked now, and what carrying the others would take. */
function dirtyOf(device: DeviceRun): Pick<DeviceSample, 'dirtyPages' | 'carryMs'> {
  const carried = Math.min(device.dirtyPages, pagesToCarry(device));
  // Copied out and in again; all of it counts, though the first is done beside the last pass of RAM.
  const perPage = 2 * (device.carrying?.microsecondsPerPage ?? assumedCarryMicroseconds);
  return { dirtyPages: device.dirtyPages - carried, carryMs: (carried * perPage) / 1000 };
}

/**
 * A connection of TCP is given up by the kernel after two minutes only. (RDMA registers memory before it connects, which may take as long as that.)
 * @param elapsedMs since QEMU was told to migrate
 */
function checkConnected({ options: { uri }, timeouts }: Run, status: string, elapsedMs: number): void {
  if (status !== 'setup' || elapsedMs < timeouts.connect || uri.startsWith('rdma:')) return;
  throw refusal(
    'VC_URI',
    `the source QEMU has not reached ${uri} within ${timeouts.connect} ms`,
    'is it an address of the destination, and does a firewall let it through?',
  );
}

/** Looks at all parties, and lets QEMU switch over or holds it. */
class Governor {
  readonly #run: Run;
  readonly #limits: ConvergenceOptions;
  readonly #costs: SwitchoverCosts;
  #sent: { limitMs: number; bandwidth: number | undefined } = { limitMs: holdLimitMs, bandwidth: undefined };
  #quiet = false;
  #nearUntil = 0;
  #tooLong = false;
  /** QEMU, held back, goes through the RAM of an idle guest ten times a second: whether that converges shows only after a device's first pass. */
  #roundsOfFirstPass = 0;
  /**
   * What little of RAM is dirty near the end is gone through in milliseconds, and how much QEMU may leave for the blackout it hears from one look to the
   * next, and heeds ten times a second: on a machine with much to do sixty rounds had passed before it was given what the limit had room for.
   */
  #rounds = { seen: 1, last: 1 };
  /** How much of RAM has been sent, and since when that is so; see `performance.now`. */
  #ramSent = { bytes: 0, at: performance.now() };

  constructor(run: Run, limits: ConvergenceOptions, costs: SwitchoverCosts) {
    this.#run = run;
    this.#costs = costs;
    this.#limits = limits;
  }

  /** QEMU may switch over, and should before long. */
  get near(): boolean {
    return this.#quiet && performance.now() < this.#nearUntil;
  }

  /** QEMU is held back, and not because a device's first pass is not over. */
  get tooLong(): boolean {
    return this.#tooLong;
  }

  async look(elapsedMs: number): Promise<void> {
    const run = this.#run;
    const [status] = await Promise.all([
      run.source.execute('query-migrate'),
      ...run.devices.map(async (device) => {
        const [pages, size] = await Promise.all([device.source.dirtyEstimate(), device.source.dataSize()]);
        device.dirtyPages = pages;
        device.dataSize = size;
        if (!canPreCopy(device)) device.dirtyBytes = size;
      }),
    ]);
    if (run.progressed.stopped) return;
    checkConnected(run, textAt(status, 'status'), elapsedMs);
    const round = numberAt(status, 'ram', 'dirty-sync-count');
    const firstPass = run.devices.some(({ initialBytes }) => initialBytes > 0);
    if (firstPass) this.#roundsOfFirstPass = Math.max(0, round - 1);
    else if (round > this.#rounds.last) this.#rounds.seen += 1;
    this.#rounds.last = round;
    const sample = {
      elapsedMs,
      round: round - this.#roundsOfFirstPass,
      roundsSeen: this.#rounds.seen,
      ramRemaining: numberAt(status, 'ram', 'remaining'),
      ramExpectedMs: numberAt(status, 'expected-downtime'),
      ramStillMs: this.#stillMs(status),
      deviceRate: pumpRate(run.devices),
      devices: run.devices.map((device) => ({
        id: device.id,
        initialBytes: device.initialBytes,
        finalBytes: device.dataSize,
        ...dirtyOf(device),
      })),
    };
    const decision = decide({ ...this.#limits, ...this.#costs }, sample);
    this.#tooLong = decision.hold && !firstPass;
    run.rounds = round;
    this.#note(status, decision, elapsedMs);
    if (decision.giveUp !== undefined) {
      const { reason, neededMs } = decision.giveUp;
      const hint =
        neededMs === undefined
          ? 'is the way to the destination cut, or its QEMU stopped?'
          : `a downtime limit of about ${neededMs} ms would have been needed now (--downtime-limit)`;
      throw refusal('VC_NOT_CONVERGED', reason, hint);
    }
    // What is being compiled in the background is finished by the next look.
    const ready = !decision.hold && sample.ramRemaining < quietBelowBytes;
    if (ready !== this.#quiet) {
      await this.#setQuiet(ready);
      return;
    }
    const settings = this.#apply(decision, sample.ramRemaining);
    if (ready) anticipate(run);
    await settings;
  }

  async #setQuiet(on: boolean): Promise<void> {
    this.#quiet = on;
    this.#nearUntil = performance.now() + longestNearMs;
    await this.#run.quiet(on);
  }

  async #apply(decision: Decision, ramRemaining: number): Promise<void> {
    const limitMs = decision.hold ? holdLimitMs : decision.ramLimitMs;
    const throttle = decision.hold && ramRemaining < heldBelowBytes;
    const bandwidth = throttle ? heldBandwidth : undefined;
    if (limitMs === this.#sent.limitMs && bandwidth === this.#sent.bandwidth) return;
    const parameters: Record<string, unknown> = { 'downtime-limit': limitMs };
    if (bandwidth !== this.#sent.bandwidth) parameters['max-bandwidth'] = bandwidth ?? this.#fullBandwidth();
    this.#sent = { limitMs, bandwidth };
    await this.#run.source.execute('migrate-set-parameters', parameters);
  }

  /** For how long QEMU has sent nothing of its RAM. */
  #stillMs(status: unknown): number {
    const bytes = numberAt(status, 'ram', 'transferred');
    const now = performance.now();
    if (bytes !== this.#ramSent.bytes) this.#ramSent = { bytes, at: now };
    return now - this.#ramSent.at;
  }

  /** What QEMU was set to before it was held. */
  #fullBandwidth(): unknown {
    const { maxBandwidth, parameters } = this.#run.options;
    const asked = maxBandwidth ?? parameters?.['max-bandwidth'];
    if (asked !== undefined) return asked;
    const saved = this.#run.restoreSettings.find(({ command }) => command === 'migrate-set-parameters');
    return (saved?.args as Record<string, unknown> | undefined)?.['max-bandwidth'] ?? 0;
  }

  #note(status: unknown, decision: Decision, elapsedMs: number): void {
    const run = this.#run;
    const ramTotal = numberAt(status, 'ram', 'total');
    const sample: PrecopySample = {
      elapsedMs,
      round: numberAt(status, 'ram', 'dirty-sync-count'),
      ramRemaining: numberAt(status, 'ram', 'remaining'),
      ramTotal,
      ramTransferred: numberAt(status, 'ram', 'transferred'),
      dirtyPagesRate: numberAt(status, 'ram', 'dirty-pages-rate'),
      devices: run.devices.map(({ id, initialBytes, dirtyBytes, sentBytes, dirtyPages }) => ({
        id,
        initialBytes,
        dirtyBytes,
        sentBytes,
        dirtyPages,
      })),
      estimateMs: decision.deviceEstimateMs + numberAt(status, 'expected-downtime'),
      deviceEstimateMs: decision.deviceEstimateMs,
      held: decision.hold,
    };
    if (run.samples.length < 100_000) run.samples.push(sample);
    run.options.onProgress?.({ phase: 'precopy', elapsedMs: run.elapsedMs, sample });
  }
}
