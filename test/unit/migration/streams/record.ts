/**
 * Records the streams that `recorded-streams.test.ts` keeps loading. Run it once for each released version of the
 * format or of the fake model's state, under the next version number, and never again for an old one:
 *
 *     npm run build && node dist/test/unit/migration/streams/record.js v2
 *
 * What is recorded: a device with 16 KiB of memory (`recordedMemory`), model version 1, stopped at once
 * (`stop-copy`) and with a precopy during which the guest resets the device (`pre-copy`).
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { migrationState as s } from '../../../../src/migration/index.ts';
import { FakeDevice, fakeMigration, readAll } from '../fake-device.ts';

export const recordedModel = { name: 'fake', stateVersion: 1 } as const;
export const recordedSize = 16384;

/** What the memory of the recorded device holds. */
export function recordedMemory(): Buffer {
  return Buffer.from(Uint8Array.from({ length: recordedSize }, (_, i) => (i ^ (i >>> 8)) & 0xff));
}

function device(): FakeDevice {
  const made = new FakeDevice({ memorySize: recordedSize });
  recordedMemory().copy(made.memory);
  return made;
}

export function recordStopCopy(): Buffer {
  const { controller } = fakeMigration(device(), { model: recordedModel });
  controller.setState(s.STOP_COPY);
  return readAll(controller);
}

export function recordPreCopy(): Buffer {
  const from = device();
  const { controller } = fakeMigration(from, { model: recordedModel });
  controller.setState(s.PRE_COPY);
  const target = Buffer.alloc(6000);
  const parts: Buffer[] = [Buffer.from(target.subarray(0, controller.read(target)))];
  controller.deviceWasReset();
  parts.push(readAll(controller));
  from.poke(5000, recordedMemory()[5000] ?? 0);
  parts.push(readAll(controller));
  controller.setState(s.STOP_COPY);
  parts.push(readAll(controller));
  return Buffer.concat(parts);
}

const version = process.argv[2];
if (process.argv[1] === fileURLToPath(import.meta.url) && version !== undefined) {
  const folder = 'test/unit/migration/streams';
  writeFileSync(`${folder}/${version}-stop-copy.bin`, recordStopCopy(), { flag: 'wx' });
  writeFileSync(`${folder}/${version}-pre-copy.bin`, recordPreCopy(), { flag: 'wx' });
}
