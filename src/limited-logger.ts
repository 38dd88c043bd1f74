import type { ChildLoggerOptions } from 'pino';
import { LimitedLog } from './limited-log.ts';
import type { Logger } from './log.ts';

/** Each with a limit of its own, so that what is worst is not left out for what is said most. */
const levels = ['info', 'warn', 'error', 'fatal'] as const;

type Limits = Readonly<Record<(typeof levels)[number], LimitedLog>>;

/**
 * A logger for those of whom a guest or a peer can have much said as often as it likes: models, and network ports. A flood of
 * lines would fill the host's disk.
 *
 * @param now monotonic nanoseconds
 */
export function limitedLogger(log: Logger, now: () => number): Logger {
  const limit = () => new LimitedLog(log, now);
  return limited(log, { info: limit(), warn: limit(), error: limit(), fatal: limit() });
}

function limited(log: Logger, limits: Limits): Logger {
  const result: Logger = Object.create(log);
  for (const level of levels) {
    result[level] = (...line: unknown[]) => {
      // What nobody sees is no flood.
      if (log.isLevelEnabled(level) && limits[level].allows()) Reflect.apply(log[level], log, line);
    };
  }
  const child = (bindings: object, options?: ChildLoggerOptions) =>
    limited(log.child(bindings, options), limits);
  // The type's own has levels that a caller adds, which nobody does.
  result.child = child as unknown as Logger['child'];
  return result;
}
