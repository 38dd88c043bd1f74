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
