import { CompanionError } from '../errors.ts';

/** Something that set-up should have provided is missing, damaged or cannot be had. */
export class SetupError extends CompanionError {
  constructor(message: string, hint: string, cause?: unknown) {
    super('VC_SETUP', message, cause === undefined ? { hint } : { hint, cause });
  }
}
