import { constants } from 'node:os';
import { CompanionError } from '../errors.ts';
import { lastErrno } from './libc.ts';

const names = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));

/** A system call that failed. `errno` is the system's, the message says which call on what ("open /x: ENOENT"). */
export class PosixError extends CompanionError {
  constructor(call: string, errnoValue: number, hint?: string) {
    super('VC_POSIX', `${call}: ${names.get(errnoValue) ?? `errno ${errnoValue}`}`, {
      errno: errnoValue,
      hint,
    });
  }
}

/** Passes a result through, or throws the `PosixError` of a call that returned -1. */
export function check(result: number, call: string, hint?: string): number {
  if (result === -1) throw new PosixError(call, lastErrno(), hint);
  return result;
}
