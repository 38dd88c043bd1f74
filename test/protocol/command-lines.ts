import { fileURLToPath } from 'node:url';
import { execa } from 'execa';

/** The program as it is built; `make test-fast` builds it first. */
export const program = fileURLToPath(new URL('../../dist/src/cli/main.js', import.meta.url));
const runEach = fileURLToPath(new URL('../../dist/test/protocol/run-each.js', import.meta.url));

/** What came of one command line. */
export interface CommandEnd {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Has the program carry out command lines that end by themselves, all in one process: starting one for each took longer than all of them. It has
 * to end, too, so that one that leaves something open is noticed.
 * @param through a command to run that through: `['setpriv', …]`
 * @throws when something is written past Node's streams, as a log is
 */
export async function endsOf(
  lines: readonly (readonly string[])[],
  through: readonly string[] = [],
): Promise<CommandEnd[]> {
  const [command = '', ...rest] = [...through, process.execPath, runEach, program, JSON.stringify(lines)];
  const { stdout, stderr } = await execa(command, rest);
  if (stderr !== '') throw new Error(`beside what was said: ${stderr}`);
  return JSON.parse(stdout) as CommandEnd[];
}
