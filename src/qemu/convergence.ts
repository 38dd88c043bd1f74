/**
 * When may a migration switch over, and when is there no point in going on? Pure: samples in, decision out.
 *
 * QEMU knows only its RAM. What the devices add to the blackout (final state, pages to mark, replay) is
 * estimated here, and QEMU is given what is left of the downtime limit; as long as nothing is left, or a
 * device's first pass is not over, QEMU is held back.
 */

export interface ConvergenceOptions {
  readonly downtimeLimitMs: number;
  readonly maxSeconds: number;
  readonly maxRounds: number;
  /** First `downtime-limit` given to QEMU; raised while the guest keeps RAM busy. */
  readonly firstRamLimitMs: number;
  /** Replay and the rest that does not depend on the amount of data. */
  readonly fixedMs: number;
  readonly markMicrosecondsPerPage: number;
}

export interface DeviceSample {
  readonly id: string;
  readonly initialBytes: number;
  /** Bytes that are still to be sent once the device has stopped. */
  readonly finalBytes: number;
  /** Pages to be marked. */
  readonly dirtyPages: number;
  /** What pages that are carried instead would take, ms. */
  readonly carryMs: number;
}

export interface ConvergenceSample {
  readonly elapsedMs: number;
  /** QEMU's `dirty-sync-count`, without the rounds that passed during a device's first pass. */
  readonly round: number;
  /** The same, as it counts towards `maxRounds`: what passes between two looks at QEMU is one round, however often that went through what little is dirty. */
  readonly roundsSeen: number;
  readonly ramRemaining: number;
  /** QEMU's `expected-downtime`, ms. */
  readonly ramExpectedMs: number;
  /** For how long nothing of RAM has been sent, ms. */
  readonly ramStillMs: number;
  /** Bytes of device state a millisecond, as measured. */
  readonly deviceRate: number;
  readonly devices: readonly DeviceSample[];
}

export interface Decision {
  /** QEMU must not switch over yet. */
  readonly hold: boolean;
  /** `downtime-limit` for QEMU, ms. */
  readonly ramLimitMs: number;
  readonly deviceEstimateMs: number;
  /** `neededMs`: a downtime limit that would do; undefined where none would. */
  readonly giveUp?: { readonly reason: string; readonly neededMs: number | undefined };
}

/** Rounds at one `downtime-limit` before it is doubled. */
const patienceRounds = 3;
const roundsBeforeRaising = 4;
/** Where nothing of RAM has been sent for so long the way takes nothing; QEMU sends something several times a second even while it is held back. */
const stillMs = 5000;
/** QEMU's own limit on `downtime-limit`. */
const longestLimitMs = 2_000_000;

/** What the devices add to the blackout, ms. */
export function deviceDowntime(options: ConvergenceOptions, sample: ConvergenceSample): number {
  let ms = options.fixedMs;
  for (const device of sample.devices) {
    ms += (device.finalBytes + device.initialBytes) / Math.max(sample.deviceRate, 1);
    ms += (device.dirtyPages * options.markMicrosecondsPerPage) / 1000 + device.carryMs;
  }
  return ms;
}

export function decide(options: ConvergenceOptions, sample: ConvergenceSample): Decision {
  const deviceEstimateMs = deviceDowntime(options, sample);
  const room = options.downtimeLimitMs - deviceEstimateMs;
  const firstPass = sample.devices.filter((device) => device.initialBytes > 0);
  const doublings = Math.max(0, Math.floor((sample.round - roundsBeforeRaising) / patienceRounds));
  const raised = options.firstRamLimitMs * 2 ** Math.min(doublings, 20);
  const ramLimitMs = Math.max(1, Math.min(Math.floor(room), raised, longestLimitMs));
  const hold = firstPass.length > 0 || room < 1;
  const decision = { hold, ramLimitMs, deviceEstimateMs };

  const outOfTime = sample.elapsedMs > options.maxSeconds * 1000;
  const outOfRounds = sample.roundsSeen > options.maxRounds;
  if (!outOfTime && !outOfRounds) return decision;
  const spent = outOfTime ? `${options.maxSeconds} s` : `${options.maxRounds} rounds`;
  const still = sample.ramRemaining > 0 && sample.ramStillMs > stillMs;
  const why = still
    ? `nothing of RAM has been sent for ${Math.round(sample.ramStillMs / 1000)} s (${sample.ramRemaining} bytes remain)`
    : firstPass.length > 0
      ? `the first pass of ${firstPass.map(({ id }) => id).join(', ')} is not over`
      : room < 1
        ? `the devices alone need about ${Math.ceil(deviceEstimateMs)} ms`
        : `the guest dirties its RAM faster than it is sent (${sample.ramRemaining} bytes remain)`;
  const neededMs = still ? undefined : Math.ceil(deviceEstimateMs + Math.max(sample.ramExpectedMs, 1));
  return { ...decision, giveUp: { reason: `not converged after ${spent}: ${why}`, neededMs } };
}
