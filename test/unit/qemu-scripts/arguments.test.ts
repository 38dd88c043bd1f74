import { describe, expect, it } from 'vitest';
import { countFrom } from '../../../qemu-scripts/arguments.ts';

describe('countFrom', () => {
  const usage = 'ping-pong [TIMES]';

  it('takes a number, or what holds where none is given', () => {
    expect(countFrom(['3'], usage, 10)).toBe(3);
    expect(countFrom([], usage, 10)).toBe(10);
    expect(countFrom(['15'], usage, 10, 15)).toBe(15);
  });

  it.each([
    [['ten']],
    [['']],
    [['0']],
    [['-1']],
    [['1.5']],
    [['Infinity']],
    [['--help']],
    [['3', '4']],
    [['16']],
  ])('says how a script is called that is given %j', (args) => {
    expect(() => countFrom(args, usage, 10, 15)).toThrow(`usage: ${usage}`);
  });
});
