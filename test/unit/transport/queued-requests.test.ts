import { describe, expect, it } from 'vitest';
import { QueuedRequests } from '../../../src/transport/native/queued-requests.ts';

describe('requests that wait for the device', () => {
  it('run in order, those that are added meanwhile as well, and never inside one another', () => {
    const queue = new QueuedRequests();
    const order: string[] = [];
    queue.add(1, () => {
      order.push('first');
      queue.add(1, () => order.push('third'));
      expect(queue.draining).toBe(true);
      queue.drain();
      order.push('end of first');
    });
    queue.add(1, () => order.push('second'));
    queue.drain();
    expect(order).toEqual(['first', 'end of first', 'second', 'third']);
    expect(queue.length).toBe(0);
  });

  it('are bounded in number and in bytes, and give their room back', () => {
    const queue = new QueuedRequests();
    const mib = 2 ** 20;
    for (let i = 0; i < 64; i++) expect(queue.add(mib, () => {})).toBe(true);
    expect(queue.add(1, () => {})).toBe(false);
    queue.drain();
    let added = 0;
    while (queue.add(0, () => {})) added += 1;
    expect(added).toBe(65536);
    queue.clear();
    expect(queue.add(64 * mib, () => {})).toBe(true);
  });

  it('run in order however many they are, each giving its room to one that is added meanwhile', () => {
    const queue = new QueuedRequests();
    const limit = 65536;
    const more = limit / 2;
    let next = 0;
    let wrong = 0;
    const request = (number: number) => () => {
      if (number !== next++) wrong++;
      if (number >= more) return;
      // The queue was full but for this one: there is room for one more, and for no second.
      if (!queue.add(1, request(limit + number)) || queue.add(1, () => {})) wrong++;
      if (queue.length !== limit) wrong++;
    };
    for (let number = 0; number < limit; number++) queue.add(1, request(number));
    queue.drain();
    expect({ next, wrong, left: queue.length }).toEqual({ next: limit + more, wrong: 0, left: 0 });
    expect(queue.add(64 * 2 ** 20, () => {})).toBe(true);
  });

  it('are forgotten when one of them ends the session, and those of the next one run', () => {
    const queue = new QueuedRequests();
    const order: string[] = [];
    queue.add(1, () => order.push('first'));
    queue.add(1, () => {
      queue.clear();
      queue.add(1, () => order.push('of the next session'));
    });
    for (let number = 0; number < 8; number++) queue.add(1, () => order.push('of a client that is gone'));
    queue.drain();
    expect(order).toEqual(['first', 'of the next session']);
    expect(queue.length).toBe(0);
    expect(queue.add(64 * 2 ** 20, () => {})).toBe(true);
  });

  it('go on after one that throws', () => {
    const queue = new QueuedRequests();
    let ran = false;
    queue.add(1, () => {
      throw new Error('a bug');
    });
    queue.add(1, () => {
      ran = true;
    });
    expect(() => queue.drain()).toThrow('a bug');
    queue.drain();
    expect(ran).toBe(true);
  });
});
