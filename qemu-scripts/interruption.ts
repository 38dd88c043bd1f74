/** What the demonstration does about Ctrl-C and its like: end all that was started, also what is just starting. */
import { CompanionError } from '../src/errors.ts';
import type { DemoResult, DemoScene } from './demo-scene.ts';

/** Ctrl-C, `kill`, and the terminal that goes away. */
const interrupting = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs `work` with a signal that is aborted when this process is asked to end; the reason is the error. */
export async function interruptible<T>(work: (interrupted: AbortSignal) => Promise<T>): Promise<T> {
  const cancel = new AbortController();
  const onSignal = (signal: NodeJS.Signals): void =>
    cancel.abort(new CompanionError('VC_INTERRUPTED', `${signal}: everything ended`));
  // They stay for a second signal: by default it would end us in the midst of ending, and execa does the same while it
  // runs a program and nobody else listens.
  for (const signal of interrupting) process.on(signal, onSignal);
  try {
    return await work(cancel.signal);
  } finally {
    for (const signal of interrupting) process.off(signal, onSignal);
  }
}

/**
 * Plays a scene and ends what it has started, whether it succeeds, fails or is interrupted.
 * @throws the reason of `interrupted`, when nothing is left of the scene
 */
export async function playScene(scene: DemoScene, interrupted: AbortSignal): Promise<DemoResult> {
  const ends: (() => Promise<void>)[] = [];
  const faults: unknown[] = [];
  const endAll = async (): Promise<void> => {
    for (const end of [...ends].reverse()) await end().catch((fault) => faults.push(fault));
  };
  const playing = scene((end) => {
    ends.push(end);
    // What was being started when the interruption came. It is ended below; the scene has no need to go on.
    interrupted.throwIfAborted();
  });
  const [played] = await Promise.allSettled([Promise.race([playing, whenAborted(interrupted)])]);
  // Ending what a scene waits for makes it settle; once it has, nothing more can be started.
  await endAll();
  await Promise.allSettled([playing]);
  await endAll();
  if (played.status === 'rejected') throw played.reason;
  if (faults.length > 0) throw faults[0];
  return played.value;
}

function whenAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}
