import { Packr } from 'msgpackr';
import { afterEach, describe, expect, it } from 'vitest';
import { hello } from '../../device-models/hello/index.ts';
import type { DeviceModel } from '../../src/device/index.ts';
import { errno } from '../../src/errors.ts';
import { operations } from '../../src/vfio-user/client/index.ts';
import { Bench } from './runtime-harness.ts';

describe('companion requests', () => {
  let bench: Bench;
  afterEach(() => bench.close());

  it('are refused when they hold more than plain msgpack, and the next one is served', () => {
    bench = new Bench(hello as unknown as DeviceModel);
    const payloads = [
      new Packr({ moreTypes: true }).pack({ op: 'info', extra: new TypeError('x') }),
      new Packr({ useRecords: true }).pack({ op: 'info' }),
      Buffer.concat([Buffer.alloc(100, 0x91), Buffer.from([1])]),
      Buffer.from([0xdf, 0xff, 0xff, 0xff, 0xff]),
    ];
    for (const data of payloads) {
      expect(() => bench.orchestrator.run({ ...operations.companion('info'), data })).toThrow(
        expect.objectContaining({ errno: errno.EINVAL }),
      );
    }
    expect(bench.orchestrator.companion('info')).toMatchObject({ model: 'hello' });
  });
});
