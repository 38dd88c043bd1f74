import { CompanionError, errno } from '../errors.ts';

/** QEMU refused a monitor command; `qemuClass` is QMP's error class ("GenericError", "CommandNotFound" …). */
export class QmpError extends CompanionError {
  readonly qemuClass: string;
  readonly command: string;
  /** QEMU's own sentence. */
  readonly description: string;

  constructor(command: string, qemuClass: string, description: string) {
    super('VC_QMP_REFUSED', `QEMU refused ${command}: ${description}`, { errno: errno.EINVAL });
    this.command = command;
    this.description = description;
    this.qemuClass = qemuClass;
  }
}

/** The monitor connection is gone, was never there, or spoke something else than QMP. */
export class QmpConnectionError extends CompanionError {
  constructor(message: string, hint?: string, cause?: unknown) {
    super('VC_QMP_LOST', message, { errno: errno.ECONNRESET, hint, cause });
  }
}

/** Something did not happen in its time. */
export class DeadlineError extends CompanionError {
  constructor(what: string, timeoutMs: number, hint?: string) {
    super('VC_DEADLINE', `${what}: nothing within ${timeoutMs} ms`, { errno: errno.ETIMEDOUT, hint });
  }
}

/** A process that we started ended before it was ready, or could not be started. */
export class LaunchError extends CompanionError {
  constructor(message: string, hint?: string, cause?: unknown) {
    super('VC_LAUNCH', message, { hint, cause });
  }
}

/** A migration refused or given up, with the way out. */
export function refusal(code: string, message: string, hint?: string): CompanionError {
  return new CompanionError(code, message, { errno: errno.EOPNOTSUPP, hint });
}
