import { Mlx5Device } from '../../../device-models/mlx5/index.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { CommandFailed, FakeDriver } from '../../unit/mlx5/driver.ts';
import { FakeHost, FakePort } from '../../unit/mlx5/fake-host.ts';
import { buildFrame } from '../../unit/mlx5/frames.ts';
import { testMac } from '../../unit/mlx5/setup.ts';
import { Recorder, type Recording, recordedHost } from './recording.ts';

/** Records the fake driver: probe, interface up, all kinds of traffic, changes of everything, down, removal. */
export function recordFakeDriver(vectors = 4): Recording {
  const host = new FakeHost();
  const recorder = new Recorder(() => host.now());
  const port = new FakePort();
  const device = new Mlx5Device(recordedHost(host, recorder), { vectors, mac: testMac }, port);
  const driver = new FakeDriver(host, device);
  const bar = device.bars[0];
  const write = bar.write.bind(bar);
  bar.write = (offset, count, source, at) => {
    const bytes = Uint8Array.from(source.subarray(at, at + count));
    recorder.during({ write: { offset, bytes } }, () => write(offset, count, source, at));
  };
  const inject = (frame: Buffer) => {
    recorder.during({ frame: Uint8Array.from(frame) }, () => void port.inject(frame));
    driver.poll();
  };
  driver.probe(vectors);
  driver.up(2);
  traffic(driver, inject);
  driver.addVlan(7);
  driver.allMulti(true);
  driver.promisc(true);
  inject(buildFrame({ dst: driver.mac, vlan: { type: 0x8100, tci: 7 }, protocol: 'tcp' }));
  inject(buildFrame({ dst: Buffer.from('0180c2000001', 'hex') }));
  host.advance(1_000_000);
  driver.setMtu(9022);
  driver.stats();
  queries(driver, device);
  loopback(driver);
  driver.down();
  driver.up(1, { fragment: 2048, logFragments: 2 });
  traffic(driver, inject);
  inject(buildFrame({ dst: driver.mac, payload: Buffer.alloc(5000, 3) }));
  driver.down();
  driver.promisc(false);
  deleteEntries(driver);
  driver.remove();
  driver.probe(vectors);
  driver.up(1);
  traffic(driver, inject);
  return { vectors, mac: testMac, steps: recorder.steps };
}

function traffic(driver: FakeDriver, inject: (frame: Buffer) => void): void {
  const dst = Buffer.from([2, 0, 0, 0, 0, 8]);
  for (const ip of [4, 6] as const) {
    for (const protocol of ['tcp', 'udp'] as const) {
      const frame = buildFrame({ dst, ip, protocol, payload: Buffer.alloc(700, ip) });
      driver.send(frame, { l3: true, l4: true });
      const headers = 14 + (ip === 4 ? 20 : 40) + (protocol === 'tcp' ? 20 : 8);
      driver.send(frame, { mss: 100, inline: headers, l3: true, l4: true, pieces: [33, 300] });
      driver.send(frame, { inline: 18, pieces: [20, 20], vlan: { type: 0x8000, tci: 5 } });
      inject(buildFrame({ dst: driver.mac, ip, protocol, payload: Buffer.alloc(200, 1) }));
      inject(buildFrame({ ip, protocol }));
    }
  }
  driver.poll();
}

/** What the stock driver never or rarely asks: every QUERY, and pages given and taken back. */
function queries(driver: FakeDriver, device: Mlx5Device): void {
  const { core } = device;
  const ask = (name: keyof typeof prm.opcode, id: number | undefined, out: number, head = 16, opMod = 0) => {
    const input = Buffer.alloc(head);
    input.writeUInt32BE(id ?? 0, 8);
    try {
      driver.command(name, input, out, opMod);
    } catch (error) {
      // A refusal is as good to mutate as an answer.
      if (!(error instanceof CommandFailed)) throw error;
    }
  };
  const first = (table: { values(): Iterable<{ readonly id: number }> }) => [...table.values()][0]?.id;
  ask('QUERY_EQ', first(core.eqs.table), 1296);
  ask('QUERY_CQ', first(core.cqs.table), 1296);
  ask('QUERY_SQ', first(core.sqs.table), 1296);
  ask('QUERY_RQ', first(core.rqs.table), 1296);
  ask('QUERY_TIS', first(core.tiss), 1296);
  ask('QUERY_TIR', first(core.tirs), 1296);
  ask('QUERY_RQT', first(core.rqts), 1296);
  ask('QUERY_MKEY', first(core.mkeys.table), 1296);
  ask('QUERY_SPECIAL_CONTEXTS', 0, 32);
  ask('MODIFY_TIS', first(core.tiss), 16, 192);
  ask('MODIFY_CQ', first(core.cqs.table), 16, 272);
  const state = Buffer.alloc(16);
  prm.modifyVportStateIn.set(state, 'admin_state', 1);
  driver.command('MODIFY_VPORT_STATE', state);
  const moderation = Buffer.alloc(272);
  prm.modifyCqIn.set(moderation, 'cqn', first(core.cqs.table) ?? 0);
  prm.modifyCqIn.set(moderation, 'modify_field_select_resize_field_select', 3);
  prm.cqc.set(moderation, 'cq_period', 8, prm.modifyCqIn.byte('cq_context'));
  driver.command('MODIFY_CQ', moderation);
  const table = Buffer.alloc(64);
  prm.queryFlowTableIn.set(table, 'table_id', driver.tables.l2 ?? 0);
  driver.command('QUERY_FLOW_TABLE', table, prm.queryFlowTableOut.size);
  const entry = Buffer.alloc(64);
  prm.queryFteIn.set(entry, 'table_id', driver.tables.l2 ?? 0);
  driver.command('QUERY_FLOW_TABLE_ENTRY', entry, prm.queryFteOut.size);
  const pages = Buffer.alloc(16 + 8 * 10);
  prm.managePagesIn.set(pages, 'input_num_entries', 10);
  for (let page = 0; page < 10; page++) pages.writeUInt32BE((page + 1) * 4096, 16 + 8 * page + 4);
  driver.command('MANAGE_PAGES', pages, 16, 1);
  driver.command('MANAGE_PAGES', pages, 16 + 8 * 16, 2);
  for (const group of [0, 1, 2, 3, 5, 0x10, 0x11, 0x12, 0x16]) {
    const ppcnt = Buffer.alloc(272);
    prm.ppcntReg.set(ppcnt, 'local_port', 1, 16);
    prm.ppcntReg.set(ppcnt, 'grp', group, 16);
    driver.register(0x5008, ppcnt, 1);
  }
  for (const register of [0x5001, 0x5002, 0x5004, 0x5006, 0x5007, 0x6001, 0x9014]) {
    driver.register(register, Buffer.alloc(16 + 0x90), 1);
  }
}

/** The self-test of the driver: a TIR that hears this vport's own frames. */
function loopback(driver: FakeDriver): void {
  const input = Buffer.alloc(272);
  prm.modifyTirIn.set(input, 'tirn', driver.tirs[10] ?? 0);
  prm.modifyTirBitmask.set(input, 'self_lb_en', 1, prm.modifyTirIn.byte('bitmask'));
  prm.tirc.set(input, 'self_lb_block', 1, prm.modifyTirIn.byte('ctx'));
  driver.command('MODIFY_TIR', input);
  driver.send(buildFrame({ dst: driver.mac, payload: Buffer.alloc(300) }));
  driver.poll();
}

function deleteEntries(driver: FakeDriver): void {
  driver.deleteEntry('vlan', 7);
  driver.deleteEntry('l2', 128);
}
