import { expect, it } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { CommandFailed, type FakeDriver } from './driver.ts';
import { running } from './setup.ts';

const operation = { give: 1, take: 2 } as const;
/** QUERY_PAGES: what is to be given, or below 0 given back, while the function works. */
const regular = 3;
const listAt = prm.managePagesIn.byte('pas');

function give(driver: FakeDriver, pages: readonly number[]): void {
  const input = Buffer.alloc(listAt + 8 * pages.length);
  prm.managePagesIn.set(input, 'input_num_entries', pages.length);
  pages.forEach((page, index) => {
    input.writeBigUInt64BE(BigInt(page), listAt + 8 * index);
  });
  driver.command('MANAGE_PAGES', input, 16, operation.give);
}

/** @param room how many addresses the answer has room for */
function take(driver: FakeDriver, count: number, room = count): number[] {
  const input = Buffer.alloc(16);
  prm.managePagesIn.set(input, 'input_num_entries', count);
  const output = driver.command('MANAGE_PAGES', input, listAt + 8 * room, operation.take);
  return Array.from({ length: prm.managePagesOut.get(output, 'output_num_entries') }, (_, index) =>
    Number(output.readBigUInt64BE(listAt + 8 * index)),
  );
}

function wanted(driver: FakeDriver): number {
  const output = driver.command('QUERY_PAGES', Buffer.alloc(16), 16, regular);
  return prm.queryPagesOut.get(output, 'num_pages') | 0;
}

const high = 2 ** 40 + 4096;

it('gives all pages back that a guest has given, in as many answers as the guest makes room for', () => {
  const { driver } = running();
  expect(wanted(driver)).toBe(0);
  give(driver, [4096, high]);
  give(driver, [8192]);
  expect(wanted(driver)).toBe(-3);
  expect(take(driver, 3, 2)).toEqual([4096, high]);
  expect(wanted(driver)).toBe(-1);
  expect(take(driver, 5)).toEqual([8192]);
  expect(take(driver, 1)).toEqual([]);
  expect(wanted(driver)).toBe(0);
});

it.each([
  ['a page that is not aligned', [4096, 8192 + 512]],
  ['a page beyond 2^53', [4096, 2 ** 60]],
])('takes none of a list with %s', (_what, pages) => {
  const { driver } = running();
  expect(() => give(driver, pages)).toThrow(CommandFailed);
  expect(wanted(driver)).toBe(0);
});

it('takes none of a list that is cut off', () => {
  const { driver } = running();
  const input = Buffer.alloc(listAt + 8);
  prm.managePagesIn.set(input, 'input_num_entries', 2);
  expect(() => driver.command('MANAGE_PAGES', input, 16, operation.give)).toThrow(CommandFailed);
  expect(wanted(driver)).toBe(0);
});

it('keeps no more than its limit, however they are given', () => {
  const { driver } = running();
  const portion = Array.from({ length: 512 }, (_, index) => 4096 * index);
  for (let given = 0; given < limits.grantedPages; given += portion.length) give(driver, portion);
  expect(() => give(driver, [4096])).toThrow(CommandFailed);
  expect(wanted(driver)).toBe(-limits.grantedPages);
});
