import { expect, it } from 'vitest';
import { keyFigures } from '../../../src/report/key-figures.ts';
import { summary } from '../../../src/report/summary.ts';
import { aReport } from './a-report.ts';

const [device] = aReport.devices;
if (device === undefined) throw new Error('no device');

it('tells the blackout, the time, and what was compared, each with its verdict', () => {
  expect(keyFigures(aReport)).toEqual([
    { label: 'Blackout', value: '31.4 ms', note: 'the limit was 300 ms', good: true },
    { label: 'Migrated in', value: '1.23 s', note: '256.0 MiB of RAM, 2 rounds; QEMU 11.1.3 to 11.1.3' },
    { label: 'RAM proof', value: '0', note: 'of 65536 pages differ; compared in 60 ms', good: true },
    {
      label: `Device ${device.id} (ram)`,
      value: 'equal',
      note: 'state, configuration, MSI-X table; 500 B in the blackout, 512 pages marked',
      good: true,
    },
  ]);
});

it('tells a single round as one', () => {
  const report = { ...aReport, rounds: 1 };
  expect(keyFigures(report)[1]?.note).toContain(', 1 round; QEMU');
  expect(summary(report)).toContain(', 1 round; QEMU');
});

it('holds against the limit what the comparison did not take', () => {
  const timeline = [{ part: 'verify', startUs: 10_000, endUs: 400_000 }] as const;
  const [blackout] = keyFigures({ ...aReport, timeline, blackoutUs: 420_000 });
  const note = 'the limit was 300 ms; 390.0 ms more for the comparison that was asked for';
  expect(blackout).toEqual({ label: 'Blackout', value: '30.0 ms', note, good: true });
  const [tooLong] = keyFigures({ ...aReport, timeline, blackoutUs: 690_001 });
  expect(tooLong?.good).toBe(false);
});

it('does not call equal what differs or was not compared', () => {
  const figures = (changes: object) =>
    keyFigures({ ...aReport, devices: [{ ...device, ...changes }] }).at(-1);
  const moved = '500 B in the blackout, 512 pages marked';
  expect(figures({ stateEqual: false, configDifferences: ['0x04'] })).toMatchObject({
    ...{ value: 'not equal', note: `state, configuration; ${moved}`, good: false },
  });
  expect(figures({ stateEqual: null, msixTableEqual: null, carriedPages: 7 })).toMatchObject({
    ...{ value: 'equal', note: `configuration; ${moved} and 7 carried`, good: true },
  });
  const none = figures({ stateEqual: null, msixTableEqual: null, configCompared: null });
  expect(none).toEqual({ label: `Device ${device.id} (ram)`, value: '–', note: `not compared; ${moved}` });
  expect(figures({ configCompared: false })?.good).toBe(false);
  const [, , ram] = keyFigures({ ...aReport, ram: { pages: 9, differing: 2, milliseconds: 1, first: [] } });
  expect(ram).toMatchObject({ value: '2', good: false });
});

it('says where a guest is that did not arrive, and claims nothing else', () => {
  const figures = keyFigures({ ...aReport, outcome: 'source', blackoutUs: null, ram: null, devices: [] });
  expect(figures).toEqual([
    { label: 'Blackout', value: '–', note: 'none was measured' },
    { label: 'Given up after', value: '1.23 s', note: 'the guest runs at the source', good: false },
    { label: 'RAM proof', value: '–', note: 'RAM was not compared' },
  ]);
});
