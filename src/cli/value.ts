/** A value on the command line: what JSON says it is (true, 5, ["a"], "5" with its quotes), else text. */
export function parseValue(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
