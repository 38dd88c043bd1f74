import { describe, expect, it } from 'vitest';
import { migrationState as s } from '../../../src/migration/index.ts';
import { FakeDevice, fakeMigration, readAll } from './fake-device.ts';
import { StateSummary } from './state-summary.ts';

function summary(...streams: Buffer[]): StateSummary {
  const made = new StateSummary();
  for (const stream of streams) made.write(stream);
  return made;
}

function device(change: (device: FakeDevice) => void = () => {}): FakeDevice {
  const made = new FakeDevice();
  for (let i = 0; i < made.memory.length; i++) made.memory[i] = (i * 3) & 0xff;
  change(made);
  return made;
}

function saved(from: FakeDevice, pci: unknown = { command: 7 }): StateSummary {
  const { controller, setPci } = fakeMigration(from);
  setPci(pci);
  controller.setState(s.STOP_COPY);
  return summary(readAll(controller));
}

describe('summaries of states', () => {
  it('are equal for the same state, however it was sent', () => {
    const from = device();
    const { controller } = fakeMigration(from);
    controller.setState(s.PRE_COPY);
    const first = readAll(controller);
    from.poke(100, 1);
    const second = readAll(controller);
    controller.deviceWasReset();
    from.poke(5000, 2);
    const third = readAll(controller);
    from.poke(9000, 3);
    controller.setState(s.STOP_COPY);
    const sent = summary(first, second, third, readAll(controller));
    expect(sent.pages).toBe(8);
    const plain = saved(from);
    expect(plain.complete).toBe(true);
    expect(plain.header?.model).toBe('fake');
    expect(sent.differences(plain)).toEqual([]);
  });

  it('say what differs', () => {
    const one = saved(device());
    expect(one.differences(saved(device((d) => d.poke(4096 * 2 + 7, 0x77))))).toEqual([
      'section "memory" differs in 1 pages, first at 0x2000',
    ]);
    expect(one.differences(saved(device((d) => Object.assign(d.registers, { control: 2 }))))).toEqual([
      'section "registers" differs at control',
    ]);
    expect(one.differences(saved(device(), { command: 6 }))).toEqual(['section "@pci" differs at command']);
    expect(one.differences(saved(new FakeDevice({ memorySize: 4096 })))[0]).toBe('geometry differs');
    expect(one.differences(new StateSummary())[0]).toBe('one of the states is not complete');
  });

  it('refuse a damaged stream', () => {
    const { controller } = fakeMigration(device());
    controller.setState(s.STOP_COPY);
    const stream = readAll(controller);
    stream[500] = (stream[500] ?? 0) ^ 1;
    expect(() => summary(stream)).toThrow('corrupt');
  });
});
