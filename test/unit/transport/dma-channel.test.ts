import { describe, expect, it } from 'vitest';
import { errno } from '../../../src/errors.ts';
import { DmaChannel } from '../../../src/transport/dma/channel.ts';
import { command, headerFlags } from '../../../src/vfio-user/constants.ts';
import { readHeader } from '../../../src/vfio-user/messages.ts';

const timeoutMs = 10;
const nsPerMs = 1e6;

/** A client without a socket, which does `serve` each time that it is looked to, a millisecond after the last time. */
function channelTo(serve: (answer: (id: number) => void, asked: readonly number[]) => void) {
  const asked: number[] = [];
  let now = 0;
  const channel: DmaChannel = new DmaChannel(
    {
      mayWait: true,
      open: true,
      blocked: false,
      send: (bytes) => void asked.push(readHeader(bytes, 0).id),
      serveWhileWaiting: () => {
        now += nsPerMs;
        serve(answer, asked);
        return true;
      },
      beginWait: () => {},
      endWait: () => {},
      now: () => now,
    },
    Buffer.alloc(DmaChannel.outputSize),
    { chunk: 4096, window: 8, batchWindow: 8, timeoutMs, probe: false },
  );
  /** Refuses: a reply that needs no data. */
  const answer = (id: number): void => {
    channel.onReply(id, command.DMA_READ, headerFlags.error, errno.EFAULT, Buffer.alloc(0), 0, 0);
  };
  return channel;
}

describe('a wait for the reply to DMA by message', () => {
  it('ends in time, however often the client has what came in between ask and answers that', () => {
    let depth = 0;
    let rounds = 1000;
    const channel = channelTo((answer, asked) => {
      if (depth > 0) answer(asked.at(-1) ?? 0);
      else if (rounds-- > 0) {
        depth += 1;
        expect(() => channel.read(0x2000, Buffer.alloc(4))).toThrow(
          expect.objectContaining({ errno: errno.EFAULT }),
        );
        depth -= 1;
      } else answer(asked[0] ?? 0);
    });
    expect(() => channel.read(0x1000, Buffer.alloc(4))).toThrow(
      expect.objectContaining({ errno: errno.ETIMEDOUT, hint: expect.stringContaining('QEMU') }),
    );
  });
});
