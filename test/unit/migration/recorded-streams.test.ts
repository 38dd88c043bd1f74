import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { migrationState as s } from '../../../src/migration/index.ts';
import { FakeDevice, fakeMigration } from './fake-device.ts';
import { recordedMemory, recordedSize, recordPreCopy, recordStopCopy } from './streams/record.ts';

const folder = new URL('./streams/', import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith('.bin'));

describe.each(files)('the stream recorded as %s', (file) => {
  const stream = readFileSync(new URL(file, folder));

  it('loads into a newer version that says so', () => {
    const device = new FakeDevice({ memorySize: recordedSize });
    const { controller, pci } = fakeMigration(device, {
      model: { name: 'fake', stateVersion: 2, loadsVersions: [1] },
    });
    controller.setState(s.RESUMING);
    controller.write(stream);
    controller.setState(s.RUNNING);
    expect(device.loadVersion).toBe(1);
    expect(device.memory.equals(recordedMemory())).toBe(true);
    expect(device.registers).toEqual({ control: 1, name: 'fake', wide: 2n ** 40n });
    expect(pci()).toEqual({ command: 7 });
  });

  it('is refused with any byte of its memory changed', () => {
    const at = stream.indexOf(recordedMemory().subarray(256, 512));
    expect(at).toBeGreaterThan(0);
    for (const place of [at, at + 77, at + 255]) {
      const damaged = Buffer.from(stream);
      damaged[place] = (damaged[place] ?? 0) ^ 0x80;
      const { controller } = fakeMigration(new FakeDevice({ memorySize: recordedSize }), {
        model: { name: 'fake', stateVersion: 1 },
      });
      controller.setState(s.RESUMING);
      expect(() => controller.write(damaged)).toThrow('corrupt');
    }
  });

  it('is refused by a newer version that does not', () => {
    const { controller } = fakeMigration(new FakeDevice({ memorySize: recordedSize }), {
      model: { name: 'fake', stateVersion: 2 },
    });
    controller.setState(s.RESUMING);
    expect(() => controller.write(stream)).toThrow('version 1, this device loads 2');
    expect(controller.state).toBe(s.ERROR);
  });
});

it('there are recordings, and those of this version are what is written today', () => {
  expect(files).toContain('v1-stop-copy.bin');
  expect(readFileSync(new URL('v2-stop-copy.bin', folder)).equals(recordStopCopy())).toBe(true);
  expect(readFileSync(new URL('v2-pre-copy.bin', folder)).equals(recordPreCopy())).toBe(true);
});
