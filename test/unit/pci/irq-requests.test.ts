import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RequestError } from '../../../src/errors.ts';
import { type IrqSet, irqFlags } from '../../../src/transport/served-device.ts';
import { pciIrq } from '../../../src/vfio-user/constants.ts';
import { makeFunction, plainDescription } from './fixtures.ts';

describe('irqInfo', () => {
  test('counts and flags', () => {
    const { interrupts } = makeFunction();
    expect([0, 1, 2, 3, 4].map((index) => interrupts.irqInfo(index).count)).toEqual([1, 4, 8, 1, 1]);
    const intx = irqFlags.eventfd | irqFlags.maskable | irqFlags.automasked;
    expect(interrupts.irqInfo(0).flags).toBe(intx);
    expect(interrupts.irqInfo(2).flags).toBe(irqFlags.eventfd);
    expect(() => interrupts.irqInfo(5)).toThrow(RequestError);
    expect(makeFunction(plainDescription).interrupts.irqInfo(0).count).toBe(0);
  });
});

describe('refused requests', () => {
  const base: IrqSet = { index: 2, start: 0, count: 1, action: 'trigger', data: { type: 'none' } };
  const wrong: [string, Partial<IrqSet>][] = [
    ['no such index', { index: 5 }],
    ['start beyond', { start: 8 }],
    ['range beyond', { start: 7, count: 2 }],
    ['a negative start', { start: -1 }],
    ['a huge count', { count: 0xffff_ffff }],
    ['count 0 with eventfd', { count: 0, data: { type: 'eventfd', fds: [] } }],
    ['count 0 with mask', { index: 0, count: 0, action: 'mask' }],
    ['count 0 with a start', { start: 3, count: 0 }],
    ['mask of MSI-X', { action: 'mask' }],
    ['unmask of MSI', { index: 1, action: 'unmask' }],
    ['mask of ERR', { index: 3, action: 'mask' }],
    ['too few values', { count: 2, data: { type: 'bool', values: [true] } }],
    ['too many values', { data: { type: 'bool', values: [true, true] } }],
  ];
  test.each(wrong)('%s', (_name, change) => {
    const { interrupts } = makeFunction();
    expect(() => interrupts.setIrqs({ ...base, ...change })).toThrow(RequestError);
    expect(() => interrupts.setIrqs(base)).not.toThrow();
  });

  test('leave the descriptors that came along to the caller', () => {
    const { fds, interrupts } = makeFunction();
    const refused = (change: Partial<IrqSet>, count: number) => {
      const made = Array.from({ length: count }, () => fds.create());
      const data = { type: 'eventfd', fds: [...made, undefined, -1] } as const;
      expect(() => interrupts.setIrqs({ ...base, ...change, data })).toThrow(RequestError);
      expect([...fds.open]).toEqual(made);
      for (const fd of made) fds.close(fd);
    };
    refused({ index: 9 }, 1);
    refused({ count: 1 }, 2);
    refused({ index: 0, action: 'mask' }, 1);
    refused({ start: 6, count: 4 }, 2);
  });

  test('unmask by eventfd needs somebody to watch it', () => {
    const { fds, interrupts } = makeFunction(undefined, false);
    const data = { type: 'eventfd', fds: [fds.create()] } as const;
    expect(() => interrupts.setIrqs({ ...base, index: 0, action: 'unmask', data })).toThrow(RequestError);
    expect([...fds.open]).toEqual(data.fds);
  });
});

test('no sequence of requests leaks a descriptor, closes one twice or signals a stale one', () => {
  const anyRequest = fc.record({
    index: fc.integer({ min: -1, max: 5 }),
    start: fc.integer({ min: -1, max: 9 }),
    count: fc.integer({ min: 0, max: 9 }),
    action: fc.constantFrom('mask', 'unmask', 'trigger', 'trigger', 'trigger'),
    kind: fc.constantFrom('none', 'bool', 'eventfd', 'eventfd'),
    // Which of the range get a descriptor; may be too short or too long.
    given: fc.array(fc.boolean(), { maxLength: 10 }),
  });
  const step = fc.oneof(
    anyRequest.map((request) => ({ request })),
    fc.nat(7).map((vector) => ({ vector })),
    fc.constantFrom('hold', 'release', 'reset', 'detach', 'fireAll', 'assert', 'deassert'),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      // FakeDescriptors throws for a double close and for a signal on a closed descriptor.
      const { fds, interrupts } = makeFunction();
      for (const one of steps) {
        if (one === 'assert' || one === 'deassert') interrupts.setIntx(one === 'assert');
        else if (typeof one === 'string') interrupts[one]();
        else if ('vector' in one) interrupts.trigger(one.vector);
        else {
          const { kind, given, ...rest } = one.request;
          const made = (flag: boolean) => (flag ? fds.create() : undefined);
          const data: IrqSet['data'] =
            kind === 'none'
              ? { type: 'none' }
              : kind === 'bool'
                ? { type: 'bool', values: given }
                : { type: 'eventfd', fds: given.map(made) };
          try {
            interrupts.setIrqs({ ...rest, data });
          } catch (error) {
            if (!(error instanceof RequestError)) throw error;
            if (data.type === 'eventfd') for (const fd of data.fds) if (fd !== undefined) fds.close(fd);
          }
        }
        // At most one per vector: INTx and its unmask, 4 MSI, 8 MSI-X, ERR, REQ.
        if (fds.open.size > 2 + 4 + 8 + 2) return false;
      }
      interrupts.detach();
      return fds.open.size === 0 && fds.watches.size === 0;
    }),
    { numRuns: 400 },
  );
  expect(pciIrq.req).toBe(4);
});
