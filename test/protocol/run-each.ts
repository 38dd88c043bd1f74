/**
 * run-each PROGRAM LINES: carries out these command lines (JSON, an array for each) one after the other, in this process, and prints what came
 * of them. What the program imports is loaded once.
 */
import type { CommandEnd } from './command-lines.ts';

const [node = '', , program = '', lines = '[]'] = process.argv;
const streams = ['stdout', 'stderr'] as const;
const write = process.stdout.write.bind(process.stdout);
const ends: CommandEnd[] = [];
for (const name of streams) process[name].setMaxListeners(0);
for (const [index, line] of (JSON.parse(lines) as string[][]).entries()) {
  const said = { stdout: '', stderr: '' };
  for (const name of streams)
    process[name].write = (text: string | Uint8Array) => {
      said[name] += String(text);
      return true;
    };
  process.argv = [node, program, ...line];
  process.exitCode = 0;
  // Another module for each: it is run again.
  await import(`${program}?${index}`);
  ends.push({ exitCode: Number(process.exitCode), ...said });
}
process.exitCode = 0;
write(JSON.stringify(ends));
