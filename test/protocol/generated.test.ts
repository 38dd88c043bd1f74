import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { operations } from '../../src/vfio-user/client/index.ts';
import { encodeRequest } from '../../src/vfio-user/messages.ts';
import { fuzzEnd, fuzzMessage } from '../fuzz/generate.ts';
import { FuzzTarget, openDescriptors } from '../fuzz/target.ts';

/** Messages in one run; `make fuzz` goes on for much longer, see test/fuzz/main.ts. */
const conversations = 120;
const perConversation = 100;

describe('native server, generated messages', () => {
  it.each(['device', 'migration'] as const)('answers them all on the %s socket and loses nothing', (role) => {
    const before = openDescriptors();
    const target = new FuzzTarget(role);
    const conversation = fc.tuple(
      fc.array(fuzzMessage, { minLength: perConversation, maxLength: perConversation, size: 'max' }),
      fc.option(fuzzEnd),
    );
    fc.assert(
      fc.property(conversation, ([messages, end]) => {
        for (const message of messages) target.send(message);
        if (end !== null) {
          target.send(end);
          target.hangUp();
        }
        expect(target.alive()).toBe(true);
      }),
      { numRuns: conversations / 2, endOnFailure: true },
    );
    expect(target.sent).toBeGreaterThanOrEqual((conversations / 2) * perConversation);
    expect(target.answered).toBeGreaterThan(target.sent / 3);
    target.close();
    expect(openDescriptors()).toBe(before);
  });

  it('would notice a device that fails, and one that keeps descriptors', () => {
    const failing = new FuzzTarget();
    failing.device.onRead = () => {
      throw new TypeError('a bug');
    };
    expect(() => failing.alive()).toThrow(/internal error/);
    failing.device.onRead = undefined;
    failing.close();

    const before = openDescriptors();
    const keeping = new FuzzTarget();
    keeping.device.detach = () => undefined;
    const map = operations.dmaMap({ iova: 4096, size: 4096, prot: 3 });
    keeping.send({ bytes: encodeRequest(map.spec, 1, map.value), fds: 1 });
    keeping.close();
    expect(openDescriptors()).toBe(before + 1);
    keeping.device.dmaUnmapAll();
    expect(openDescriptors()).toBe(before);
  });
});
