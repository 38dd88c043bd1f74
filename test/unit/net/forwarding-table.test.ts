import { describe, expect, test } from 'vitest';
import { ForwardingTable } from '../../../src/net/switch/forwarding-table.ts';

const make = (options = {}) =>
  new ForwardingTable({ entries: 1024, ageSeconds: 300, perPort: 1000, ...options });

describe('forwarding table', () => {
  test('finds what was learned, and only that', () => {
    const table = make();
    table.learn(0x5254, 0xfffffff0, 3, 0);
    expect(table.lookup(0x5254, 0xfffffff0, 1)).toBe(3);
    expect(table.lookup(0x5255, 0xfffffff0, 1)).toBe(-1);
    expect(table.lookup(0x5254, 0xfffffff1, 1)).toBe(-1);
    expect(table.lookup(0, 0, 1)).toBe(-1);
  });

  test('an address follows its owner to another port', () => {
    const table = make();
    table.learn(1, 2, 3, 0);
    table.learn(1, 2, 4, 1);
    expect(table.lookup(1, 2, 1)).toBe(4);
    expect(table.size).toBe(1);
  });

  test('forgets after the age, unless heard of again', () => {
    const table = make();
    table.learn(1, 2, 3, 0);
    expect(table.lookup(1, 2, 300)).toBe(3);
    expect(table.lookup(1, 2, 300.1)).toBe(-1);
    table.learn(1, 2, 3, 299);
    expect(table.lookup(1, 2, 599)).toBe(3);
  });

  test('moves and forgets by port', () => {
    const table = make();
    for (let low = 0; low < 50; low++) table.learn(9, low, low % 2, 0);
    table.move(0, 7);
    table.forget(1);
    expect(table.lookup(9, 10, 0)).toBe(7);
    expect(table.lookup(9, 11, 0)).toBe(-1);
    expect(table.size).toBe(25);
  });

  test('a port that makes up addresses pushes out none of the others', () => {
    const table = make({ perPort: 100 });
    for (let low = 0; low < 20; low++) table.learn(1, low, 1, 0);
    const taken = Array.from({ length: 100_000 }, (_, low) => table.learn(2, low, 2, 1)).filter(Boolean);
    expect(taken.length).toBeLessThanOrEqual(110);
    expect(table.size).toBeLessThanOrEqual(120);
    const left = Array.from({ length: 20 }, (_, low) => table.lookup(1, low, 1)).filter((port) => port === 1);
    expect(left.length).toBeGreaterThan(15);
  });

  test('an address that shows up at a port with no share left is not looked for where it was', () => {
    const table = make({ perPort: 2 });
    table.learn(1, 1, 5, 0);
    table.learn(1, 2, 5, 0);
    table.learn(1, 3, 4, 0);
    expect(table.learn(1, 3, 5, 1)).toBe(false);
    expect(table.lookup(1, 3, 1)).toBe(-1);
    expect(table.size).toBe(2);
  });

  test("a port's share is free again when its addresses are old", () => {
    const table = make({ perPort: 2 });
    table.learn(1, 1, 5, 0);
    table.learn(1, 2, 5, 0);
    expect(table.learn(1, 3, 5, 10)).toBe(false);
    expect(table.learn(1, 3, 5, 301)).toBe(true);
    expect(table.lookup(1, 3, 301)).toBe(5);
  });

  test('size is bounded whatever comes', () => {
    const table = make({ entries: 64, perPort: 1e9 });
    for (let low = 0; low < 10_000; low++) table.learn(low & 0xffff, low * 7919, low % 5, low / 1000);
    expect(table.size).toBeLessThanOrEqual(64);
    expect(table.lookup(9999 & 0xffff, 9999 * 7919, 10)).toBe(9999 % 5);
  });

  test('of a full set the address gives way that was not heard of for longest', () => {
    const table = make({ entries: 4 });
    for (let low = 0; low < 4; low++) table.learn(1, low, low, low);
    table.learn(1, 0, 0, 4);
    table.learn(1, 9, 9, 5);
    expect([0, 1, 2, 3, 9].map((low) => table.lookup(1, low, 6))).toEqual([0, -1, 2, 3, 9]);
  });

  test('a port whose addresses have moved to another has its share again, and one that moves to itself no more', () => {
    const table = make({ perPort: 2 });
    const learn = (port: number, ...lows: number[]) => lows.map((low) => table.learn(1, low, port, 0));
    expect(learn(1, 1, 2)).toEqual([true, true]);
    table.move(1, 2);
    expect(learn(1, 3, 4)).toEqual([true, true]);
    table.move(1, 1);
    expect(learn(1, 5)).toEqual([false]);
    expect([1, 2, 3, 4, 5].map((low) => table.lookup(1, low, 0))).toEqual([2, 2, 1, 1, -1]);
  });
});
