import { execFileSync } from 'node:child_process';
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { htmlReport } from '../../../src/report/html.ts';
import { junitReport } from '../../../src/report/junit.ts';
import { createProgressView } from '../../../src/report/progress.ts';
import { summary } from '../../../src/report/summary.ts';
import { Timeline } from '../../../src/report/timeline.ts';
import type { DeviceReport, MigrationReport, Progress } from '../../../src/report/types.ts';
import { writeWhole } from '../../../src/report/write.ts';
import { aReport as report, sample } from './a-report.ts';

describe('summary', () => {
  it('tells the blackout, its parts and what was checked', () => {
    const text = summary(report);
    expect(text).toContain('stood still for 31.4 ms (limit 300 ms)');
    expect(text).toMatch(/marking nic0 +2\.00 ms +\+0\.90 ms +512 pages/);
    expect(text).toContain('RAM proof: 0 of 65536 pages differ');
    expect(text).not.toMatch(/^(error|hint):/m);
  });

  it('claims no standstill of a guest that was paused all the time', () => {
    const [line] = summary({ ...report, blackoutUs: null }).split('\n');
    expect(line).toBe('Migrated in 1.23 s; no blackout was measured, as of a guest that is paused.');
  });

  it('tells where the guest is when it was not migrated, why, and the way out', () => {
    const error = { code: 'VC_X', message: 'it broke', hint: 'mend it', phase: 'replay' as const };
    const text = summary({ ...report, outcome: 'source', blackoutUs: null, error });
    expect(text).toMatch(
      /^Not migrated; the guest runs at the source\.\nerror: it broke \[VC_X\]\nhint: mend it\n/,
    );
  });
});

describe('htmlReport', () => {
  it('is one page that fetches and runs nothing, with both drawings', async () => {
    const html = await htmlReport(report);
    expect(html.match(/<svg/g)).toHaveLength(2);
    expect(html.match(/<script/g)).toHaveLength(1);
    expect(html).toContain('<script type="application/json"');
    expect(html).not.toContain('nic0</script>');
    expect(html).not.toMatch(/<(link|img|iframe|object)|@import|url\((?!["']?#)/i);
    expect(html.replace(/xmlns(:xlink)?="[^"]*"/g, '')).not.toMatch(/https?:\/\//);
    const data = /id="report">(.*)<\/script>/s.exec(html)?.[1] ?? '';
    expect(JSON.parse(data)).toEqual(report);
  });

  it('lists what else was proven, as text', async () => {
    const html = await htmlReport(report, ['pings: 0 of <600> lost']);
    expect(html).toContain('<li>pings: 0 of &lt;600&gt; lost</li>');
    expect(await htmlReport(report)).not.toContain('<ul');
  });

  it('leaves no room for a comparison in the drawing of the blackout, and says how long it took', async () => {
    const verify = { part: 'verify' as const, startUs: 30_000, endUs: 930_000 };
    const resume = { part: 'resume' as const, startUs: 930_000, endUs: 935_000 };
    const before = report.timeline.filter(({ endUs }) => endUs <= 30_000);
    const html = await htmlReport({ ...report, timeline: [...before, verify, resume] });
    expect(html).toContain('>ms since the vCPUs stopped, the comparison left out<');
    expect(html).toContain('>900.0 ms<');
    expect(html).toContain('>5.00 ms<');
    const ticks = (page: string): number[] =>
      [...page.matchAll(/>(\d+)<\/text>/g)].map(([, tick]) => Number(tick));
    expect(Math.max(...ticks(html))).toBeLessThan(100);
    const slow = { part: 'state' as const, startUs: 30_000, endUs: 930_000 };
    const other = await htmlReport({ ...report, timeline: [...before, slow, resume] });
    expect(other).not.toContain('left out');
    expect(Math.max(...ticks(other))).toBeGreaterThan(100);
  });

  it('draws in which times QEMU was held, and the limit', async () => {
    const samples = [0, 100, 200, 300].map((at) => ({ ...sample(at), held: at === 100 }));
    const html = await htmlReport({ ...report, samples });
    expect(html.match(/>held</g)).toHaveLength(1);
    // A limit far above all estimates would press them flat.
    expect(html).not.toContain('>limit 300 ms<');
    const near = samples.map((each) => ({ ...each, estimateMs: 290 }));
    expect(await htmlReport({ ...report, samples: near })).toContain('>limit 300 ms<');
    expect(await htmlReport(report)).not.toContain('>held<');
    // One that lasts to the end has an end all the same.
    const last = { ...sample(400), held: true };
    expect((await htmlReport({ ...report, samples: [...samples, last] })).match(/>held</g)).toHaveLength(2);
  });

  it('draws no more of a long precopy than can be told apart', async () => {
    const drawn = async (count: number): Promise<number> => {
      const samples = Array.from({ length: count }, (_, index) => ({
        ...sample(index),
        ramRemaining: 1e6 * (index % 7),
      }));
      const html = await htmlReport({ ...report, samples });
      return html.slice(0, html.indexOf('<script')).length;
    };
    expect(await drawn(20_000)).toBeLessThan(1.5 * (await drawn(2000)));
  });

  it('begins with what went wrong, and warnings', async () => {
    const html = await htmlReport({ ...report, warnings: ['a <vector> is late'] });
    expect(html).toContain('<p class="message warning">warning: a &lt;vector&gt; is late</p>');
    expect(await htmlReport(report)).not.toContain('<p class="message');
  });

  it('says what failed', async () => {
    const error = { code: 'VC_X', message: 'it broke <here>', phase: 'replay' as const };
    const html = await htmlReport({ ...report, outcome: 'source', error, timeline: [], samples: [] });
    expect(html).toContain('Migration failed: VC_X');
    expect(html).toContain('it broke &lt;here&gt;');
  });

  it('says what failed after the guest had arrived, and the way out', async () => {
    const error = {
      code: 'VC_X',
      message: 'vectors were not fired',
      hint: 'look at <it>',
      phase: 'resume' as const,
    };
    const html = await htmlReport({ ...report, error, timeline: [], samples: [] });
    expect(html).toContain('<h1 class="bad">Migrated, but something failed: VC_X</h1>');
    expect(html).toContain('Migrated in 1.23 s');
    expect(html).toContain('error: vectors were not fired [VC_X]\nhint: look at &lt;it&gt;');
  });
});

describe('junitReport', () => {
  it('has a case for each thing that was compared', () => {
    const xml = junitReport(report);
    expect(xml).toContain('tests="5" failures="0"');
    expect(xml).toContain('device nic0&lt;/script&gt;');
  });

  it('fails what differs and what took too long', () => {
    const ram = { pages: 10, differing: 2, milliseconds: 1, first: [] };
    const xml = junitReport({ ...report, ram, downtimeLimitMs: 20, error: null, outcome: 'source' });
    expect(xml).toContain('failures="3"');
    expect(xml).toContain('2 of 10 pages differ');
  });

  it('leaves out what XML 1.0 forbids, lone surrogates included', () => {
    const message = 'a\0b\x1bc\x08d\ud800e\udfff\ufffef\uffffg\nh\u{1f600}\ufffd\x7f<';
    const error = { code: 'VC_X', message, phase: 'check' as const };
    expect(junitReport({ ...report, error })).toContain('message="abcdefg&#10;h\u{1f600}\ufffd\x7f&lt;"');
  });

  it('has a case for the configuration of a device without MSI-X, too', () => {
    const [device] = report.devices;
    const of = (change: Partial<DeviceReport>): MigrationReport => ({
      ...report,
      devices: device === undefined ? [] : [{ ...device, msixTableEqual: null, ...change }],
    });
    expect(junitReport(of({}))).toMatch(/: configuration is equal" time="0.000000"\/>/);
    const differing = junitReport(of({ configDifferences: ['BAR 0: 0x1 became 0x2'] }));
    expect(differing).toContain('<failure message="BAR 0: 0x1 became 0x2"/>');
    expect(junitReport(of({ configCompared: null }))).not.toContain('configuration');
  });

  it('skips the case of a configuration that could not be compared, and the summary says so', () => {
    const [device] = report.devices;
    const devices = device === undefined ? [] : [{ ...device, configCompared: false, msixTableEqual: null }];
    const xml = junitReport({ ...report, devices });
    expect(xml).toContain('failures="0" skipped="1"');
    expect(xml).toMatch(/configuration is equal" time="0.000000"><skipped message="[^"]+"\/>/);
    expect(summary({ ...report, devices })).toContain('configuration NOT COMPARED');
    expect(summary(report)).toContain('configuration equal');
  });

  it('measures the blackout without the comparison that was asked for, which no limit covers', () => {
    const timeline = [...report.timeline, { part: 'verify' as const, startUs: 4000, endUs: 20_000 }];
    const within = junitReport({ ...report, timeline, downtimeLimitMs: 20 });
    expect(within).toContain('failures="0"');
    expect(within).toContain('name="blackout within the downtime limit" time="0.015400"');
    const over = junitReport({ ...report, timeline, downtimeLimitMs: 10 });
    expect(over).toContain('message="15.4 ms without the comparison, limit 10 ms"');
    expect(summary({ ...report, timeline })).toContain(
      '15.4 ms (limit 300 ms), and 16.0 ms more for the comparison',
    );
  });
});

describe('createProgressView', () => {
  const steps: Progress[] = [
    { phase: 'check', elapsedMs: 1 },
    { phase: 'precopy', elapsedMs: 10, sample: sample(0) },
    { phase: 'precopy', elapsedMs: 60, sample: sample(50) },
    { phase: 'precopy', elapsedMs: 1500, sample: sample(1490) },
    { phase: 'done', elapsedMs: 1600 },
  ];
  const run = (isTTY: boolean): string => {
    let text = '';
    const view = createProgressView({ isTTY, columns: 100, write: (more) => (text += more) });
    for (const step of steps) view.update(step);
    view.end();
    return text;
  };

  it('rewrites one line on a terminal', () => {
    const text = run(true);
    expect(text.split('\r')).toHaveLength(6);
    expect(text.endsWith('\n')).toBe(true);
    for (const line of text.split(/\r|\n/)) expect(line.replace('\x1b[K', '').length).toBeLessThan(100);
  });

  it('prints few plain lines elsewhere', () => {
    const text = run(false);
    expect(text).not.toContain('\x1b');
    expect(text.trimEnd().split('\n')).toHaveLength(4);
    expect(text).toContain('nic0 4.88 KiB sent, 100 B dirty, 12 pages');
  });
});

describe('Timeline', () => {
  it('counts from the stop of the vCPUs', async () => {
    const timeline = new Timeline();
    const zero = Timeline.now();
    timeline.zero(zero);
    timeline.add('marking', zero + 100, zero + 350, { device: 'nic0' });
    await expect(timeline.span('replay', () => Promise.reject(new Error('x')))).rejects.toThrow('x');
    const [marking, replay] = timeline.spans();
    expect([marking, replay].map((span) => span?.part).sort()).toEqual(['marking', 'replay']);
    expect(timeline.spans().find(({ part }) => part === 'marking')).toEqual({
      part: 'marking',
      device: 'nic0',
      startUs: 100,
      endUs: 350,
    });
  });
});

describe('writeWhole', () => {
  let folder: string;
  const inFolder = (name: string): string => join(folder, name);
  const text = (name: string): string => readFileSync(inFolder(name), 'utf8');
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'vc-report-'));
  });
  afterEach(() => {
    vi.restoreAllMocks();
    rmSync(folder, { recursive: true });
  });

  it('replaces a file as a whole, and says what can not be written', async () => {
    const path = inFolder('report.html');
    writeFileSync(path, 'old');
    await expect(writeWhole(inFolder('none/x'), 'new')).rejects.toThrow(/can't be written/);
    await expect(writeWhole(folder, 'new')).rejects.toThrow(/can't be written/);
    const before = statSync(path).ino;
    await writeWhole(path, 'new');
    expect(text('report.html')).toBe('new');
    expect(statSync(path).ino).not.toBe(before);
    expect(readdirSync(folder)).toEqual(['report.html']);
  });

  it('writes a file in place that can not be replaced, as where nothing can be made beside it', async () => {
    const path = '/proc/self/comm';
    const name = readFileSync(path, 'utf8').trim();
    try {
      await writeWhole(path, 'written in place');
      expect(readFileSync(path, 'utf8')).toMatch(/^written in plac/);
    } finally {
      writeFileSync(path, name);
    }
  });

  it('names the file that can not be written, and no other', async () => {
    await expect(writeWhole(inFolder('none/x'), 'new')).rejects.toThrow(/open '[^']*none\/x'/);
  });

  it('writes what a link leads to, and leaves the link', async () => {
    mkdirSync(inFolder('artefacts'));
    writeFileSync(inFolder('artefacts/1.xml'), 'old');
    symlinkSync('artefacts/1.xml', inFolder('there'));
    symlinkSync('artefacts/2.xml', inFolder('not yet'));
    const before = statSync(inFolder('there')).ino;
    await writeWhole(inFolder('there'), 'one');
    await writeWhole(inFolder('not yet'), 'two');
    for (const link of ['there', 'not yet']) expect(lstatSync(inFolder(link)).isSymbolicLink()).toBe(true);
    expect([text('artefacts/1.xml'), text('artefacts/2.xml')]).toEqual(['one', 'two']);
    expect(statSync(inFolder('there')).ino).not.toBe(before);
    expect(readdirSync(inFolder('artefacts'))).toEqual(['1.xml', '2.xml']);
  });

  it('writes to a pipe instead of taking its place', async () => {
    const path = inFolder('pipe');
    execFileSync('mkfifo', [path]);
    const [read] = await Promise.all([readFile(path, 'utf8'), writeWhole(path, 'new')]);
    expect(read).toBe('new');
    expect(lstatSync(path).isFIFO()).toBe(true);
    expect(readdirSync(folder)).toEqual(['pipe']);
  });

  it('writes where our own output goes as our own output', async () => {
    const write = vi.spyOn(process.stdout, 'write').mockImplementation((...args: unknown[]) => {
      const done = args.at(-1);
      if (typeof done === 'function') done();
      return true;
    });
    symlinkSync('/proc/self/fd/1', inFolder('stdout'));
    await writeWhole(inFolder('stdout'), 'new');
    expect(write).toHaveBeenCalledWith('new', expect.anything());
    expect(lstatSync(inFolder('stdout')).isSymbolicLink()).toBe(true);
  });
});
