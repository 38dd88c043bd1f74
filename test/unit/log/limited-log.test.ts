import { describe, expect, it } from 'vitest';
import { LimitedLog } from '../../../src/limited-log.ts';
import { silentLogger } from '../../../src/log.ts';

function recording() {
  const lines: string[] = [];
  const log = {
    ...silentLogger,
    warn: (details: object, line: string) => lines.push(`${JSON.stringify(details)} ${line}`),
  };
  return { lines, log: log as unknown as typeof silentLogger };
}

describe('the log of what a client can provoke', () => {
  it('lets a burst through, then some lines a second, and says how many are missing', () => {
    const { lines, log } = recording();
    let now = 0;
    const limited = new LimitedLog(log, () => now);
    for (let i = 0; i < 1000; i++) limited.warn({}, 'bad');
    expect(lines).toHaveLength(20);
    now += 1e9;
    for (let i = 0; i < 1000; i++) limited.warn({}, 'bad');
    expect(lines).toHaveLength(20 + 5 + 1);
    expect(lines[20]).toBe('{"suppressed":980} more lines like the following were left out');
  });

  it('lets everything through that comes slowly', () => {
    const { lines, log } = recording();
    let now = 0;
    const limited = new LimitedLog(log, () => now);
    for (let i = 0; i < 100; i++) {
      limited.warn({}, 'bad');
      now += 0.3e9;
    }
    expect(lines).toHaveLength(100);
  });
});
