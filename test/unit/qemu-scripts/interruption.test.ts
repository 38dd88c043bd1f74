import { describe, expect, it } from 'vitest';
import type { DemoResult, DemoScene } from '../../../qemu-scripts/demo-scene.ts';
import { interruptible, playScene } from '../../../qemu-scripts/interruption.ts';

/** Something that takes a while to start, as a guest does, and is waited for until it ends. */
class Thing {
  readonly name: string;
  readonly #journal: string[];
  readonly ended: Promise<void>;
  #end: () => void = () => undefined;

  constructor(name: string, journal: string[]) {
    this.name = name;
    this.#journal = journal;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  readonly close = async (): Promise<void> => {
    this.#journal.push(`${this.name} ended`);
    this.#end();
  };
}

const reason = new Error('interrupted');
const whole = { proven: ['all'] } as unknown as DemoResult;
const never = new AbortController().signal;

describe('playScene', () => {
  it('ends in reverse what a scene has started, when it succeeds and when it fails', async () => {
    for (const result of [Promise.resolve(whole), Promise.reject(new Error('datagrams were lost'))]) {
      const journal: string[] = [];
      const scene: DemoScene = async (finish) => {
        finish(new Thing('network', journal).close);
        finish(new Thing('bed', journal).close);
        return result;
      };
      const played = await Promise.allSettled([playScene(scene, never), result]);
      expect(played[0]).toEqual(played[1]);
      expect(journal.slice(0, 2)).toEqual(['bed ended', 'network ended']);
    }
  });

  it('ends what was just starting when the interruption came, and starts nothing after it', async () => {
    const journal: string[] = [];
    const cancel = new AbortController();
    let started: () => void = () => undefined;
    const starting = new Promise<void>((resolve) => {
      started = resolve;
    });
    const scene: DemoScene = async (finish) => {
      finish(new Thing('network', journal).close);
      await starting;
      finish(new Thing('bed', journal).close);
      journal.push('guest booted');
      return whole;
    };
    const playing = playScene(scene, cancel.signal).catch((error: unknown) => {
      journal.push('told');
      return error;
    });
    cancel.abort(reason);
    setTimeout(started, 20);
    expect(await playing).toBe(reason);
    expect(journal).toContain('bed ended');
    expect(journal).not.toContain('guest booted');
    expect(journal.at(-1)).toBe('told');
  });

  it('ends what an interrupted scene waits for, and waits until it has settled', async () => {
    const journal: string[] = [];
    const cancel = new AbortController();
    const scene: DemoScene = async (finish) => {
      const bed = new Thing('bed', journal);
      finish(bed.close);
      await bed.ended;
      journal.push('settled');
      throw new Error('the guest is gone');
    };
    const playing = playScene(scene, cancel.signal);
    cancel.abort(reason);
    await expect(playing).rejects.toBe(reason);
    expect(journal.slice(0, 2)).toEqual(['bed ended', 'settled']);
  });

  it('ends the rest when one thing can not be ended, and says so', async () => {
    const journal: string[] = [];
    const scene: DemoScene = async (finish) => {
      finish(new Thing('network', journal).close);
      finish(() => Promise.reject(new Error('stuck')));
      return whole;
    };
    await expect(playScene(scene, never)).rejects.toThrow('stuck');
    expect(journal).toContain('network ended');
  });
});

describe('interruptible', () => {
  it('listens to the end for signals, the second one included, and then no more', async () => {
    const before = process.listenerCount('SIGHUP');
    const work = interruptible(async (interrupted) => {
      expect(process.listenerCount('SIGHUP')).toBe(before + 1);
      process.emit('SIGHUP', 'SIGHUP');
      expect(process.listenerCount('SIGHUP')).toBe(before + 1);
      process.emit('SIGHUP', 'SIGHUP');
      interrupted.throwIfAborted();
    });
    await expect(work).rejects.toMatchObject({ code: 'VC_INTERRUPTED', message: 'SIGHUP: everything ended' });
    expect(process.listenerCount('SIGHUP')).toBe(before);
  });
});
