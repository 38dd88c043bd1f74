import { type Logger, pino, stdTimeFunctions } from 'pino';
import pretty from 'pino-pretty';

export type { Logger };

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

/**
 * A logger that writes synchronously to standard error: the device loop never returns to Node's event
 * loop while a guest is busy, and a line that is written after a crash is worth nothing.
 *
 * @param options.json one JSON object a line instead of text for people
 */
export function createLogger(options: { name?: string; level?: LogLevel; json?: boolean } = {}): Logger {
  const settings = {
    level: options.level ?? 'info',
    timestamp: stdTimeFunctions.isoTime,
    base: options.name === undefined ? {} : { name: options.name },
  };
  const destination = pino.destination({ fd: 2, sync: true });
  // Its reader has gone: what there is to say is said to nobody, and the device goes on.
  destination.on('error', () => undefined);
  if (options.json) return pino(settings, destination);
  const stream = pretty({
    destination,
    colorize: process.stderr.isTTY === true,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'pid,hostname',
  });
  return pino(settings, stream);
}

/** A logger that drops everything; for unit tests and for callers that do not care. */
export const silentLogger: Logger = pino({ level: 'silent' });
