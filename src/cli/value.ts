import { InvalidArgumentError } from 'commander';

export const defaultDowntimeLimitMs = 300;

/** A value on the command line: what JSON says it is (true, 5, ["a"], "5" with its quotes), else text. */
export function parseValue(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/** A number above 0. @throws InvalidArgumentError */
export function positive(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new InvalidArgumentError('a number above 0');
  return value;
}
