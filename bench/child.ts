/** Server processes that a benchmark measures against. */
import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';

const pollMs = 25;
const tries = 400;
const patienceMs = 2000;

/** Waits until a server has made its socket, or will hardly do so any more. */
export async function socketAppears(path: string): Promise<void> {
  for (let left = tries; left > 0 && !existsSync(path); left--)
    await new Promise((resolve) => setTimeout(resolve, pollMs));
}

/** Ends a process, by force if it does not go. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), patienceMs);
  await ended;
  clearTimeout(timer);
}
