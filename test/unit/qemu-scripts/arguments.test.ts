import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { countFrom, fromCommandLine, nothingFrom } from '../../../qemu-scripts/arguments.ts';

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

describe('fromCommandLine', () => {
  const given = (args: string[]): unknown =>
    fromCommandLine('once', nothingFrom, args, (text, help) => {
      throw new Error(`${help ? 'help' : 'error'}: ${text}`);
    });

  it('starts nothing where help is asked for', () => {
    for (const help of ['--help', '-h']) expect(() => given([help])).toThrow('help: usage: once');
  });

  it('starts nothing with what it does not know, and says how it is called', () => {
    expect(given([])).toBeUndefined();
    expect(() => given(['--jsn'])).toThrow('error: usage: once');
    const fail = (): never => {
      throw new Error('no such option');
    };
    const end = (text: string): never => {
      throw new Error(text);
    };
    expect(() => fromCommandLine('once', fail, [], end)).toThrow('no such option\nusage: once');
  });
});

describe('test-peer', () => {
  const script = fileURLToPath(new URL('../../../dist/qemu-scripts/test-peer.js', import.meta.url));
  const usage = 'usage: test-peer SWITCH_SOCKET IP';

  it.each([
    [['--help'], { exitCode: 0, stdout: usage, stderr: '' }],
    [['sw', 'guest'], { exitCode: 2, stdout: '', stderr: usage }],
    [['sw', '10.0.0.1', 'more'], { exitCode: 2, stdout: '', stderr: usage }],
  ])('says how it is called with %j', async (args, said) => {
    expect(await execa(process.execPath, [script, ...args], { reject: false })).toMatchObject(said);
  });

  it('looks for its switch at a path with a comma', async () => {
    const result = await execa(process.execPath, [script, '/no, such/switch', '10.0.0.1'], { reject: false });
    expect(result.stderr).toContain('no switch at /no, such/switch');
  });
});
