import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { FlowTable, missAction } from '../../../device-models/mlx5/steering/tables.ts';
import { CommandFailed } from './driver.ts';
import { buildFrame } from './frames.ts';
import { type Bench, bench, running } from './setup.ts';

/** Status of a command that the device is expected to refuse. */
function refused(run: () => void): number {
  try {
    run();
  } catch (error) {
    if (error instanceof CommandFailed) {
      expect(error.syndrome).toBeGreaterThan(0);
      return error.status;
    }
    throw error;
  }
  return 0;
}

const { commandStatus } = prm;

describe('malformed commands', () => {
  it('get the status of the PRM and a syndrome', () => {
    const { driver } = running();
    const eq = (change: (input: Buffer) => void) =>
      refused(() => {
        const input = Buffer.alloc(304);
        prm.eqc.set(input, 'log_eq_size', 8, 16);
        prm.eqc.set(input, 'uar_page', driver.uar, 16);
        for (let page = 0; page < 4; page++)
          input.writeUInt32BE(0x200000 + page * 4096, 0x110 + 8 * page + 4);
        change(input);
        driver.command('CREATE_EQ', input);
      });
    expect(eq(() => {})).toBe(0);
    expect(eq((input) => prm.eqc.set(input, 'log_eq_size', 31, 16))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(eq((input) => prm.eqc.set(input, 'log_eq_size', 12, 16))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(eq((input) => prm.eqc.set(input, 'intr', 200, 16))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(eq((input) => prm.eqc.set(input, 'uar_page', 3, 16))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(eq((input) => input.writeUInt32BE(0xffffffff, 0x110))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(eq((input) => input.writeUInt32BE(0x123, 0x114))).toBe(commandStatus.BAD_PARAM_ERR);
    const short = () => driver.command('CREATE_CQ', Buffer.alloc(64));
    expect(refused(short)).toBe(commandStatus.BAD_INP_LEN_ERR);
    const narrow = () => driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 64, 1);
    expect(refused(narrow)).toBe(commandStatus.BAD_OUTP_LEN_ERR);
    const missing = Buffer.alloc(16);
    missing.writeUInt32BE(0x999, 8);
    expect(refused(() => driver.command('DESTROY_TIR', missing))).toBe(commandStatus.BAD_RES_ERR);
    const cq = Buffer.alloc(16);
    cq.writeUInt32BE(driver.channels[0]?.rx.cq.cqn ?? 0, 8);
    expect(refused(() => driver.command('DESTROY_CQ', cq))).toBe(commandStatus.BAD_RES_STATE_ERR);
  });

  it('are refused before the function is initialized, and when the opcode is unknown', () => {
    const { driver } = bench();
    driver.write32(0x10, 0);
    driver.write32(0x14, 0x10000);
    expect(refused(() => driver.command('ALLOC_PD'))).toBe(commandStatus.BAD_SYS_STATE_ERR);
    const posted = () => {
      const { outputs } = driver.post('NOP', Buffer.alloc(16), 16);
      driver.memory.writeUInt16BE(0xfff, 0x10000 + 0x10);
      driver.memory[0x1003f] = 1;
      driver.write32(0x18, 1);
      driver.finish('unknown', 0, 16, outputs, false, 0);
    };
    expect(refused(posted)).toBe(commandStatus.BAD_OP_ERR);
  });

  it('reach an end with cyclic, missing and unmapped mailboxes', () => {
    const { driver } = running();
    const entry = driver.memory.subarray(0x10000, 0x10040);
    const ring = () => {
      entry[0x3f] = 1;
      driver.write32(0x18, 1);
      return entry[0x3f];
    };
    const loop = driver.alloc(1024, 1024);
    driver.memory.writeUInt32BE(loop, loop + 0x234);
    driver.command('NOP');
    prm.commandEntry.set(entry, 'inlen', limits.commandBytes);
    prm.commandEntry.set64(entry, 'in_ptr', loop);
    expect(ring()).toBe(0);
    for (const pointer of [0, 7, 2 ** 45, Number.MAX_SAFE_INTEGER - 1023]) {
      prm.commandEntry.set64(entry, 'in_ptr', pointer);
      expect(ring()).toBeGreaterThan(0);
    }
    prm.commandEntry.set(entry, 'inlen', 0xffffffff);
    expect(ring()).toBe(prm.deliveryStatus.IN_LENGTH_ERR << 1);
    prm.commandEntry.set(entry, 'inlen', 16);
    prm.commandEntry.set(entry, 'outlen', 0x7fffffff);
    expect(ring()).toBe(prm.deliveryStatus.OUT_LENGTH_ERR << 1);
  });

  it('can not make more objects than the limits say', () => {
    const { device, driver } = running();
    const fill = (name: 'ALLOC_PD' | 'ALLOC_UAR' | 'ALLOC_Q_COUNTER') => {
      for (let count = 0; ; count++) {
        const status = refused(() => driver.command(name));
        if (status !== 0) return { status, count };
      }
    };
    expect(fill('ALLOC_PD').status).toBe(commandStatus.LIM_ERR);
    expect(fill('ALLOC_UAR').status).toBe(commandStatus.LIM_ERR);
    expect(fill('ALLOC_Q_COUNTER').status).toBe(commandStatus.LIM_ERR);
    expect(device.core.pds.size).toBe(limits.pds);
  });

  it('can not make steering go in circles or outside its tables', () => {
    const { driver, port } = running();
    const status = (run: () => void) => refused(run);
    expect(status(() => driver.setEntry('ttc', 2, 10, { table: 'l2' }))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(status(() => driver.setEntry('ttc', 0, 10, { tir: driver.tirs[0] ?? 0 }))).toBe(
      commandStatus.BAD_PARAM_ERR,
    );
    expect(status(() => driver.setEntry('ttc', 2, 10, { tir: 0xffffff }))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(status(() => driver.createGroup('ttc', 5, 6, () => {}))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(status(() => driver.createGroup('ttc', 11, 99, () => {}))).toBe(commandStatus.BAD_PARAM_ERR);
    // A table may miss to one of a higher level only: neither to itself nor back to where a frame came from.
    const miss = (from: string, to: string) => status(() => driver.setMiss(from, to));
    for (const [from, to] of [
      ['tc', 'tc'],
      ['l2', 'vlan'],
      ['ttc', 'tc'],
    ] as const) {
      expect(miss(from, to)).toBe(commandStatus.BAD_PARAM_ERR);
    }
    expect(status(() => driver.createTable(7, 0, driver.tables.ttc))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(status(() => driver.createTable(6, 0, driver.tables.ttc))).toBe(commandStatus.BAD_PARAM_ERR);
    expect(miss('tc', 'ttc')).toBe(0);
    expect(miss('tc', 'vlan')).toBe(0);
    expect(port.inject(buildFrame({ dst: driver.mac }))).toBe(true);
    driver.poll();
    expect(driver.received).toHaveLength(1);
  });

  it('can not make steering go in circles by another table in the place of one that is gone', () => {
    const { device, driver, port } = running();
    const { steering } = device.core;
    driver.setMiss('tc', 'ttc');
    const old = steering.tables.delete(driver.tables.ttc ?? 0);
    const circle = new FlowTable(old.id, 0, 0, { action: missAction.FWD, table: driver.tables.tc ?? 0 });
    steering.tables.add(circle);
    const lookup = vi.spyOn(FlowTable.prototype, 'lookup');
    expect(port.inject(buildFrame({ dst: driver.mac }))).toBe(true);
    expect(lookup).toHaveBeenCalledTimes(1);
    lookup.mockRestore();
    driver.poll();
    expect(driver.received).toEqual([]);
  });
});

/** Something that a guest may do at random, on a device that runs. */
function act(made: Bench, [kind, a, b, c]: readonly [number, number, number, number]): void {
  const { driver, device, port, host } = made;
  const buffer = Buffer.alloc(8);
  const channel = driver.channels[0];
  switch (kind % 8) {
    case 0: {
      // A command with random bytes in its head.
      const names = Object.keys(prm.opcode) as (keyof typeof prm.opcode)[];
      const input = Buffer.alloc(16 + (a % 1200));
      for (let at = 8; at < input.length; at += 4)
        input.writeUInt32BE(
          Math.imul(at * b + 1, c | 1) >>> (b % 32),
          at - (at % 4) <= input.length - 4 ? at : input.length - 4,
        );
      driver.post(names[b % names.length] ?? 'NOP', input, 16 + (c % 5000), a % 4, a % 32);
      break;
    }
    case 1:
      // Random words over a WQE, then a doorbell.
      if (channel === undefined) break;
      driver.memory.writeUInt32BE(b >>> 0, channel.tx.ring + (a % 2048) * 4);
      driver.memory.writeUInt32BE(c >>> 0, channel.tx.dbr + 4);
      driver.write64(driver.uarBase + 0x800, b, (channel.tx.sqn << 8) | 1);
      break;
    case 2:
      device.bars[0].write(a % (1024 * 1024 - 8), 8, buffer, 0);
      device.bars[0].read(b % (1024 * 1024 - 8), 1 + (c % 8), buffer, 0);
      break;
    case 3:
      driver.write64(driver.uarBase + 0x20, a, b % 0x60);
      driver.write32(driver.uarBase + 0x40, ((b % 10) << 24) | (c & 0xffffff));
      break;
    case 4:
      // Receive descriptors and their doorbell.
      if (channel === undefined) break;
      driver.memory.writeUInt32BE(b >>> 0, channel.rx.ring + (a % 256) * 4);
      driver.memory.writeUInt32BE(c >>> 0, channel.rx.dbr);
      port.inject(buildFrame({ dst: driver.mac, payload: Buffer.alloc(a % 1400) }));
      break;
    case 5: {
      // A frame with random header bytes.
      const frame = buildFrame({ dst: driver.mac, protocol: 'tcp', payload: Buffer.alloc(a % 100) });
      frame[12 + (b % 40)] = c & 0xff;
      frame[12 + (c % 40)] = b & 0xff;
      port.inject(frame.subarray(0, 1 + (a % frame.length)));
      break;
    }
    case 6:
      host.mayInitiate = a % 4 !== 0;
      if (host.mayInitiate) device.resume();
      host.advance(1_000_000);
      break;
    default:
      // The pages that the driver used first: command queue, mailboxes, event queues.
      driver.memory.writeUInt32BE(b >>> 0, 0x100000 + (a % 60_000) * 4);
      driver.write32(0x18, c >>> 0);
  }
}

describe('a hostile guest', () => {
  it('can do what it likes: nothing is thrown, and a reset brings the device back', () => {
    const word = fc.nat({ max: 0xffffffff });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(word, word, word, word), { minLength: 20, maxLength: 120 }),
        (actions) => {
          const made = running();
          for (const action of actions) act(made, action as [number, number, number, number]);
          made.host.mayInitiate = true;
          made.device.reset('client');
          const again = { ...made, driver: bench(3, made.host).driver };
          Object.assign(again.driver, { device: made.device });
          made.port.kept.length = 0;
          again.driver.probe(3);
          again.driver.up(1);
          made.port.inject(buildFrame({ dst: again.driver.mac }));
          again.driver.poll();
          return again.driver.received.length === 1;
        },
      ),
      { numRuns: 20 },
    );
  });
});
