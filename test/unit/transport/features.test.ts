import { describe, expect, it } from 'vitest';
import { errno } from '../../../src/errors.ts';
import { serveFeature } from '../../../src/transport/native/features.ts';
import type { ServedMigration } from '../../../src/transport/served-device.ts';
import { feature, featureFlags } from '../../../src/vfio-user/constants.ts';
import { loggingReport } from '../../../src/vfio-user/structs.ts';

/** DMA_LOGGING_REPORT of a page with pages of `pageSize`; what reached the migration. */
function report(pageSize: number): number[] {
  const asked: number[] = [];
  const migration = {
    reportDmaLogging: (_iova: number, _length: number, size: number) => asked.push(size),
  } as unknown as ServedMigration;
  const data = Buffer.alloc(loggingReport.size);
  loggingReport.encode({ iova: 0, length: 4096, page_size: pageSize }, data, 0);
  const flags = featureFlags.get | feature.DMA_LOGGING_REPORT;
  serveFeature(migration, { argsz: 4096, flags, data }, (size) => Buffer.alloc(size, 0xff));
  return asked;
}

describe('the page size of a dirty log report', () => {
  it.each([1, 4096, 2 ** 21, 2 ** 31, 2 ** 32, 2 ** 52])('may be %d', (size) => {
    expect(report(size)).toEqual([size]);
  });

  it.each([0, 3, 4097, 2 ** 32 - 1, 2 ** 32 + 1, 2 ** 53 - 1])('may not be %d', (size) => {
    expect(() => report(size)).toThrow(expect.objectContaining({ errno: errno.EINVAL }));
  });
});

describe('a probe of what is not there', () => {
  it('is told which method that is', () => {
    const migration = {} as ServedMigration;
    const probe = (flags: number) => () =>
      serveFeature(
        migration,
        { argsz: 8, flags: flags | featureFlags.probe, data: Buffer.alloc(0) },
        Buffer.alloc,
      );
    expect(probe(feature.MIGRATION | featureFlags.get | featureFlags.set)).toThrow("feature 1 can't do SET");
    expect(probe(feature.DMA_LOGGING_STOP | featureFlags.get | featureFlags.set)).toThrow(
      "feature 7 can't do GET",
    );
  });
});
