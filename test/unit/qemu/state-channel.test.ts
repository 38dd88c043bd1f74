import { readFileSync, statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { CompanionError } from '../../../src/errors.ts';
import type { DevicePeer, SharedState } from '../../../src/qemu/device-peer.ts';
import { openChannel } from '../../../src/qemu/switchover/state-channel.ts';

const refused = new CompanionError('VC_BAD_REQUEST', 'no such operation');

/** A server with `state` to give, and what was asked of it. */
function peer(state: Buffer, shared?: 'works' | Error): { peer: DevicePeer; asked: string[]; got: Buffer[] } {
  const asked: string[] = [];
  const got: Buffer[] = [];
  let at = 0;
  const window: SharedState = {
    open: async ({ pid, fd, size, token }) => {
      asked.push('open');
      if (shared instanceof Error) throw shared;
      const path = `/proc/${pid}/fd/${fd}`;
      expect(statSync(path).size).toBe(size);
      expect(readFileSync(path).subarray(0, token.length).equals(token)).toBe(true);
    },
    read: async (offset, length) => {
      asked.push(`shared read ${offset}`);
      const count = Math.min(length, state.length - at);
      at += count;
      return count;
    },
    write: async (offset, length) => void asked.push(`shared write ${offset}+${length}`),
  };
  const made = {
    maxTransfer: 1000,
    read: async (size: number) => {
      const piece = state.subarray(at, at + size);
      at += piece.length;
      return piece;
    },
    write: async (bytes: Buffer) => void got.push(bytes),
    ...(shared !== undefined && { shared: window }),
  };
  return { peer: made as unknown as DevicePeer, asked, got };
}

/** Moves everything, slots in turn; returns the bytes moved. */
async function move(from: DevicePeer, to: DevicePeer): Promise<number> {
  const channel = await openChannel(from, to);
  let moved = 0;
  for (let slot = 0; ; slot ^= 1) {
    const length = await channel.read(slot);
    if (length === 0) return moved;
    await channel.write(slot, length);
    moved += length;
  }
}

describe('a channel for state', () => {
  const state = Buffer.from(Uint8Array.from({ length: 5_000_000 }, (_, i) => i & 0xff));

  it('is memory that both servers share, where they can', async () => {
    const from = peer(state, 'works');
    const to = peer(state, 'works');
    expect(await move(from.peer, to.peer)).toBe(state.length);
    const chunk = 2 ** 21;
    expect(from.asked).toEqual(['open', ...[0, chunk, 0, chunk].map((offset) => `shared read ${offset}`)]);
    expect(to.asked).toEqual([
      'open',
      `shared write 0+${chunk}`,
      `shared write ${chunk}+${chunk}`,
      `shared write 0+${state.length - 2 * chunk}`,
    ]);
    expect(to.got).toEqual([]);
  });

  it.each([
    ['the destination refuses', 'works', refused],
    ['the source refuses', refused, 'works'],
    ['a server knows nothing of it', 'works', undefined],
  ] as const)('goes through this process where %s', async (_what, source, target) => {
    const from = peer(state, source);
    const to = peer(state, target);
    expect(await move(from.peer, to.peer)).toBe(state.length);
    expect(Buffer.concat(to.got).equals(state)).toBe(true);
    expect([...from.asked, ...to.asked].filter((what) => what !== 'open')).toEqual([]);
  });

  it('does not hide a mistake of ours', async () => {
    const from = peer(state, 'works');
    const to = peer(state, new TypeError('undefined is not a function'));
    await expect(openChannel(from.peer, to.peer)).rejects.toThrow('undefined is not a function');
  });
});
