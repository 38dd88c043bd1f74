/** What is given to a script on its command line. */

/**
 * The one argument that a script takes: how many, `otherwise` when it is left out.
 * @throws Error with `usage`, unless it is a whole number from 1 to `most`
 */
export function countFrom(
  args: readonly string[],
  usage: string,
  otherwise: number,
  most = Number.MAX_SAFE_INTEGER,
): number {
  const [text, ...more] = args;
  const count = text === undefined ? otherwise : Number(text);
  if (more.length > 0 || !Number.isInteger(count) || count < 1 || count > most)
    throw new Error(`usage: ${usage}`);
  return count;
}

/** Takes no argument. @throws Error with `usage`, if there is one */
export function nothingFrom(args: readonly string[], usage: string): void {
  if (args.length > 0) throw new Error(`usage: ${usage}`);
}

/** Says `text` and ends this process: of help on standard output with status 0, else as an error, as the program does. */
function endWith(text: string, help: boolean): never {
  process[help ? 'stdout' : 'stderr'].write(`${text}\n`);
  process.exit(help ? 0 : 2);
}

/** What `take` makes of the command line. Help that is asked for, and what it throws, end the script before it has started anything. */
export function fromCommandLine<T>(
  usage: string,
  take: (args: string[], usage: string) => T,
  args: string[] = process.argv.slice(2),
  end: (text: string, help: boolean) => never = endWith,
): T {
  if (args.includes('--help') || args.includes('-h')) return end(`usage: ${usage}`, true);
  try {
    return take(args, usage);
  } catch (error) {
    const { message } = error as Error;
    return end(message.startsWith('usage: ') ? message : `${message}\nusage: ${usage}`, false);
  }
}
