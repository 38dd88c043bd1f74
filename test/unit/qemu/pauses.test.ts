import { describe, expect, it } from 'vitest';
import { Pauses } from '../../../src/qemu/switchover/pauses.ts';

const never = 3_600_000;

describe('pauses', () => {
  it('end by themselves', async () => {
    const pauses = new Pauses();
    await pauses.sleep(1);
  });

  it('end all at once, and none begins afterwards', async () => {
    const pauses = new Pauses();
    let ended = 0;
    const sleeping = [1, 2, 3].map(() => pauses.sleep(never).then(() => ended++));
    await pauses.sleep(1);
    expect(ended).toBe(0);
    pauses.end();
    await Promise.all(sleeping);
    expect(ended).toBe(3);
    await pauses.sleep(never);
  });
});
