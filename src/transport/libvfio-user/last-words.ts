import { spawn } from 'node:child_process';

/**
 * Says `message` on standard error when this process dies without having called the function that this returns.
 * A library that aborts on an assertion leaves no other moment to say whose device was lost: no code of this
 * process runs any more. A shell of its own session waits for the end of a pipe instead.
 */
export function armLastWords(message: string): () => void {
  const script = 'read -r line || printf "%s\\n" "$0" >&2';
  const shell = spawn('/bin/sh', ['-c', script, message], {
    stdio: ['pipe', 'ignore', 'inherit'],
    detached: true,
  });
  // Without it there are no last words, nothing worse.
  shell.on('error', () => undefined);
  shell.stdin.on('error', () => undefined);
  shell.unref();
  if ('unref' in shell.stdin && typeof shell.stdin.unref === 'function') shell.stdin.unref();
  return () => void shell.stdin.end('ended\n');
}
