import { pack, unpack } from 'msgpackr';
import { describe, expect, test } from 'vitest';
import { planReplay } from '../../../src/pci/index.ts';
import { pciIrq } from '../../../src/vfio-user/constants.ts';
import { makeFunction, plainDescription, put } from './fixtures.ts';

const commandOffset = 0x04;

/** A function as its driver has it: BAR placed, bus master on, MSI-X on. */
function running() {
  const made = makeFunction();
  put(made.config, 0x10, 4, 0xfe00_0000);
  put(made.config, 0x14, 4, 0x1);
  put(made.config, commandOffset, 2, 0x0406);
  put(made.config, (made.config.msix?.capability ?? 0) + 2, 2, 0x8000);
  return made;
}

describe('from one stock client to another', () => {
  test('everything is delivered once, a masked vector when it is opened', () => {
    const source = running();
    source.connect(pciIrq.msix, 0, 3);
    source.interrupts.trigger(3); // masked at the client: it gave no descriptor
    source.interrupts.hold();
    source.interrupts.trigger(1); // made after the stop
    expect(source.fds.taken()).toEqual([]);
    const config = unpack(pack(source.config.save()));
    const interrupts = unpack(pack(source.interrupts.save()));
    const plan = planReplay(source.config.snapshot());

    const target = makeFunction();
    target.interrupts.hold();
    target.config.reset();
    target.interrupts.reset();
    target.config.load(config);
    target.interrupts.load(interrupts);
    for (const { offset, size, value } of plan) put(target.config, offset, size, value);
    put(target.config, commandOffset, 2, source.config.command);
    expect(target.config.snapshot().equals(source.config.snapshot())).toBe(true);
    expect(target.config.bar(0)?.address).toBe(0x1_fe00_0000);
    // The client's answer to MSI-X control: the message kind first, then the open vectors.
    const none = { type: 'eventfd', fds: [undefined] } as const;
    target.interrupts.setIrqs({ index: pciIrq.msix, start: 0, count: 1, action: 'trigger', data: none });
    const made = target.connect(pciIrq.msix, 0, 3);
    expect(target.fds.taken()).toEqual([]);
    target.interrupts.release();
    expect(target.fds.taken()).toEqual([made[1]]);
    expect(target.interrupts.fireAll()).toBe(3);
    expect(target.fds.taken()).toEqual(made);
    const [late] = target.connect(pciIrq.msix, 3, 1);
    expect(target.fds.taken()).toEqual([late]);
  });

  test('negative control: without the saved interrupts the masked vector stays silent', () => {
    const target = running();
    target.connect(pciIrq.msix, 0, 4);
    expect(target.fds.taken()).toEqual([]);
  });

  test('going back: the source delivers what it held', () => {
    const source = running();
    const made = source.connect(pciIrq.msix, 0, 3);
    source.interrupts.hold();
    source.interrupts.trigger(2);
    source.interrupts.save();
    source.config.save();
    source.interrupts.release();
    expect(source.fds.taken()).toEqual([made[2]]);
  });
});

test('an index without interrupts cannot even be disabled', () => {
  const { interrupts } = makeFunction(plainDescription);
  const request = { start: 0, count: 0, action: 'trigger', data: { type: 'none' } } as const;
  expect(() => interrupts.setIrqs({ ...request, index: pciIrq.msix })).toThrow(/has 0/);
  expect(() => interrupts.setIrqs({ ...request, index: pciIrq.err })).not.toThrow();
});
