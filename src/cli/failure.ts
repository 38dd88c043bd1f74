import { CommanderError } from 'commander';
import { CompanionError } from '../errors.ts';

const systemHints: Readonly<Record<string, string>> = {
  EMFILE: 'raise the limit of open files: ulimit -n 1024',
  ENFILE: 'this machine has no more open files to give: end something',
};

/** Exit statuses, beside 0 for "all that was claimed has been checked". */
export const exitStatus = { failed: 1, usage: 2 } as const;

/** What commander can't know to be wrong with a command line. */
const usageCodes: ReadonlySet<string> = new Set([
  'VC_USAGE',
  'VC_NO_MODEL',
  'VC_MODEL_OPTION',
  'VC_NET_SPEC',
]);

/** The status of a command that has ended with `error`. */
export function failureStatus(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitStatus.usage;
  const usage = error instanceof CompanionError && usageCodes.has(error.code);
  return usage ? exitStatus.usage : exitStatus.failed;
}

/** How V8 tells that it gets no memory, or no addresses for some: it reserves far more of these than it uses. */
const noMemory = /could not allocate memory|allocation failed/i;

/** What is written on standard error of a command that has failed. Only what we have not foreseen shows its stack. */
export function failureText(error: unknown): string {
  if (error instanceof CompanionError)
    return withHint(`error: ${error.message} [${error.code}]\n`, error.hint);
  // What the machine lacks, or has run out of.
  if (error instanceof Error && 'syscall' in error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (syscall === 'uv_cwd') return withHint('error: the working directory is gone\n', 'go to another one');
    return withHint(`error: ${error.message}\n`, systemHints[code ?? '']);
  }
  if (error instanceof RangeError && noMemory.test(error.message))
    return withHint(
      `error: ${error.message}\n`,
      'lift the limit of address space, of which Node reserves much more than it uses: ulimit -v unlimited',
    );
  return `error: ${error instanceof Error ? error.stack : String(error)}\n`;
}

function withHint(text: string, hint: string | undefined): string {
  return hint === undefined || hint === '' ? text : `${text}hint: ${hint}\n`;
}
