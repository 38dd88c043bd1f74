import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { printable, registerAsk } from '../../../src/cli/ask.ts';
import {
  parseCapability,
  parseDevice,
  parseParameter,
  parseQmpAddress,
  registerMigrate,
  writeReports,
} from '../../../src/cli/migrate.ts';
import { registerServe } from '../../../src/cli/serve.ts';
import { registerSwitch } from '../../../src/cli/switch.ts';
import type { MigrationReport } from '../../../src/report/types.ts';
import { aReport } from '../report/a-report.ts';

const report: MigrationReport = { ...aReport, timeline: [], samples: [], devices: [], ram: null };

describe('arguments of vfio-companion migrate', () => {
  it('take a monitor as a path or as host and port', () => {
    expect(parseQmpAddress('/run/a.qmp')).toBe('/run/a.qmp');
    expect(parseQmpAddress('unix:/run/a.qmp')).toBe('/run/a.qmp');
    expect(parseQmpAddress('tcp:::1:4444')).toEqual({ host: '::1', port: 4444 });
    expect(parseQmpAddress('tcp::4444')).toEqual({ host: '127.0.0.1', port: 4444 });
    expect(parseQmpAddress('tcp:[::1]:4444')).toEqual({ host: '::1', port: 4444 });
    for (const wrong of ['tcp:host', 'tcp:host:0', 'tcp:host:70000', 'tcp:[::1:4444', 'tcp:[]:4444'])
      expect(() => parseQmpAddress(wrong)).toThrow(/tcp:HOST:PORT/);
  });

  it('take devices one by one', () => {
    const first = parseDevice('nic0=/a,/b');
    expect(parseDevice('nic1=/c,/d', first)).toEqual([
      { id: 'nic0', source: '/a', destination: '/b' },
      { id: 'nic1', source: '/c', destination: '/d' },
    ]);
    for (const wrong of ['nic0', 'nic0=/a', '=/a,/b']) expect(() => parseDevice(wrong)).toThrow(/ID=/);
  });

  it('take capabilities and parameters', () => {
    expect(parseCapability('multifd', parseCapability('xbzrle=off', {}))).toEqual({
      xbzrle: false,
      multifd: true,
    });
    expect(() => parseCapability('multifd=maybe', {})).toThrow();
    expect(parseParameter('multifd-channels=4', { a: 'b' })).toEqual({ a: 'b', 'multifd-channels': 4 });
    expect(parseParameter('tls-creds=x=y', {})).toEqual({ 'tls-creds': 'x=y' });
    expect(() => parseParameter('=1', {})).toThrow();
  });

  it.each<[string, unknown]>([
    ['direct-io=on', true],
    ['direct-io=off', false],
    ['direct-io=true', true],
    ['multifd-compression=none', 'none'],
    ['mode=normal', 'normal'],
    ['max-bandwidth=0', 0],
    ['tls-hostname=10.0.0.1', '10.0.0.1'],
    ['tls-creds="on"', 'on'],
    ['tls-hostname="5"', '5'],
    ['tls-creds=', ''],
    ['cpr-exec-command=["a","b"]', ['a', 'b']],
  ])('take the parameter %s for what QEMU takes it for', (text, value) => {
    expect(Object.values(parseParameter(text, {}))).toEqual([value]);
  });
});

describe('the reports of vfio-companion migrate', () => {
  it('are written each by itself: one that can not be leaves the others', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'vc-reports-'));
    try {
      const junit = join(folder, 'junit.xml');
      const written = await writeReports({ report: join(folder, 'none/page.html'), junit }, report);
      expect(written).toMatchObject({ code: 'VC_REPORT', message: expect.stringContaining('page.html') });
      expect(readFileSync(junit, 'utf8')).toContain('<testsuite ');
      expect(await writeReports({ junit }, report)).toBeUndefined();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('the answer of vfio-companion ask', () => {
  it('shows bytes as hexadecimal text, and numbers of 64 bits', () => {
    const answer = { bytes: Buffer.of(1, 0xab), part: new Uint8Array([2]), small: 5n, large: 2n ** 64n - 1n };
    expect(JSON.parse(JSON.stringify(answer, printable))).toEqual({
      bytes: '01ab',
      part: '02',
      small: 5,
      large: '18446744073709551615',
    });
  });
});

describe('how much to log', () => {
  it.each(['--log', '--log-level'])('is said by %s to every command that logs', async (flag) => {
    const commands = {
      serve: ['ram', '--socket', '/nowhere/device'],
      switch: ['--socket', '/nowhere/switch'],
      migrate: [],
    };
    for (const [name, args] of Object.entries(commands)) {
      const program = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
      for (const register of [registerServe, registerSwitch, registerMigrate]) register(program);
      for (const command of program.commands)
        command.exitOverride().configureOutput({ writeErr: () => undefined });
      await expect(program.parseAsync([name, ...args, flag, 'foo'], { from: 'user' })).rejects.toThrow(
        /Allowed choices are trace, debug/,
      );
    }
  });
});

it('help says of what may be repeated that there is none by default', () => {
  const program = new Command();
  for (const register of [registerServe, registerSwitch, registerMigrate, registerAsk]) register(program);
  const help = program.commands.map((command) => command.helpInformation()).join('');
  expect(help.match(/default:\s+none/g)).toHaveLength(5);
  expect(help).not.toMatch(/default:\s+[[{]/);
});
