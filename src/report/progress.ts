import { bytes } from './format.ts';
import type { Phase, Progress } from './types.ts';

/** Where progress goes: standard error, or a test's collector. */
export interface ProgressSink {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export interface ProgressView {
  readonly update: (progress: Progress) => void;
  /** Leaves the last line standing and ends the view. */
  end(): void;
}

const headings: Record<Phase, string> = {
  connect: 'connecting',
  check: 'checking both sides',
  setup: 'preparing both sides',
  precopy: 'precopy',
  'pre-switchover': 'vCPUs stopped',
  final: 'final state',
  replay: 'replaying PCI configuration',
  resume: 'resuming at the destination',
  done: 'done',
  rollback: 'going back to the source',
};

/** A plain line at most this often while a phase lasts. */
const plainIntervalMs = 1000;
const barWidth = 20;

/** One line about a migration's state: phase, rounds, bytes, estimate. */
export function progressLine({ phase, elapsedMs, sample }: Progress): string {
  const clock = `${(elapsedMs / 1000).toFixed(1).padStart(6)} s  ${headings[phase]}`;
  if (sample === undefined) return clock;
  const done = sample.ramTotal === 0 ? 0 : 1 - sample.ramRemaining / sample.ramTotal;
  const filled = Math.round(Math.max(0, Math.min(1, done)) * barWidth);
  const parts = [
    `${clock} [${'#'.repeat(filled)}${'.'.repeat(barWidth - filled)}]`,
    `round ${sample.round}`,
    `RAM ${bytes(sample.ramTransferred)} sent, ${bytes(sample.ramRemaining)} left`,
  ];
  for (const device of sample.devices) {
    const left =
      device.initialBytes > 0 ? `${bytes(device.initialBytes)} left` : `${bytes(device.dirtyBytes)} dirty`;
    parts.push(`${device.id} ${bytes(device.sentBytes)} sent, ${left}, ${device.dirtyPages} pages`);
  }
  parts.push(`blackout about ${Math.ceil(sample.estimateMs)} ms${sample.held ? ' (held)' : ''}`);
  return parts.join('  ');
}

/** Live progress: one line that is rewritten on a terminal, a line a second elsewhere (CI logs). */
export function createProgressView(sink: ProgressSink): ProgressView {
  return sink.isTTY === true ? terminalView(sink) : plainView(sink);
}

function terminalView(sink: ProgressSink): ProgressView {
  let phase: Phase | undefined;
  let open = false;
  return {
    update(progress) {
      if (phase !== undefined && progress.phase !== phase && open) sink.write('\n');
      phase = progress.phase;
      const width = Math.max(20, (sink.columns ?? 80) - 1);
      sink.write(`\r\x1b[K${progressLine(progress).slice(0, width)}`);
      open = true;
    },
    end() {
      if (open) sink.write('\n');
      open = false;
    },
  };
}

function plainView(sink: ProgressSink): ProgressView {
  let phase: Phase | undefined;
  let last = Number.NEGATIVE_INFINITY;
  return {
    update(progress) {
      if (progress.phase === phase && progress.elapsedMs - last < plainIntervalMs) return;
      phase = progress.phase;
      last = progress.elapsedMs;
      sink.write(`${progressLine(progress)}\n`);
    },
    end() {},
  };
}
