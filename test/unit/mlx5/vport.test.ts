/** The virtual port by its commands and registers: what a driver sets it reads, and what no card takes is refused. */
import { beforeEach, describe, expect, it } from 'vitest';
import { capabilityType } from '../../../device-models/mlx5/caps.ts';
import { defaultHardMtu, limits, maxHardMtu } from '../../../device-models/mlx5/limits.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { listType, portStatus, vportAdminState, vportState } from '../../../device-models/mlx5/vport.ts';
import type { FakeDriver } from './driver.ts';
import { commandQueue } from './driver-base.ts';
import { broadcast, buildFrame } from './frames.ts';
import { bench, type running, testMac } from './setup.ts';

const { modifyNicVportContextIn, modifyNicVportFieldSelect, nicVportContext, queryNicVportContextOut } = prm;
const context = modifyNicVportContextIn.byte('nic_vport_context');
const select = modifyNicVportContextIn.byte('field_select');
const answer = queryNicVportContextOut.byte('nic_vport_context');
const entryBytes = 8;
const refused = expect.objectContaining({ status: prm.commandStatus.BAD_PARAM_ERR });

let driver: FakeDriver;
let port: ReturnType<typeof running>['port'];
let device: ReturnType<typeof running>['device'];
beforeEach(() => {
  ({ driver, port, device } = bench());
  driver.probe(3);
});

/** MODIFY_NIC_VPORT_CONTEXT of these fields. */
function modify(
  field: keyof typeof modifyNicVportFieldSelect.fields,
  fill: (input: Buffer) => void,
  more = 0,
): void {
  const input = Buffer.alloc(modifyNicVportContextIn.size + more);
  modifyNicVportFieldSelect.set(input, field, 1, select);
  fill(input);
  driver.command('MODIFY_NIC_VPORT_CONTEXT', input);
}

function setList(type: number, entries: readonly number[], claimed = entries.length): void {
  modify(
    'addresses_list',
    (input) => {
      nicVportContext.set(input, 'allowed_list_type', type, context);
      nicVportContext.set(input, 'allowed_list_size', claimed, context);
      for (const [index, entry] of entries.entries()) {
        const at = modifyNicVportContextIn.size + index * entryBytes;
        input.writeUInt16BE(type === listType.VLAN ? 0xf000 | entry : 0, at + 2);
        if (type !== listType.VLAN) input.writeUInt32BE(entry, at + 4);
      }
    },
    entries.length * entryBytes,
  );
}

/** QUERY_NIC_VPORT_CONTEXT with room for so many entries of a list. */
function query(type = 0, room = 0): Buffer {
  const input = Buffer.alloc(16);
  prm.queryNicVportContextIn.set(input, 'allowed_list_type', type);
  const bytes = queryNicVportContextOut.size + room * entryBytes;
  return driver.command('QUERY_NIC_VPORT_CONTEXT', input, bytes);
}
const get = (field: 'mtu' | 'promisc_uc' | 'promisc_mc' | 'promisc_all') =>
  nicVportContext.get(query(), field, answer);
const setMtu = (mtu: number) => modify('mtu', (input) => nicVportContext.set(input, 'mtu', mtu, context));

function list(type: number, room: number): number[] {
  const output = query(type, room);
  const size = nicVportContext.get(output, 'allowed_list_size', answer);
  return Array.from({ length: size }, (_, index) => {
    const at = queryNicVportContextOut.size + index * entryBytes;
    return type === listType.VLAN ? output.readUInt16BE(at + 2) : output.readUInt32BE(at + 4);
  });
}

describe('the NIC context of the vport', () => {
  it('has the MTU that was set, from the least to the most that there is', () => {
    for (const mtu of [68, 1522, maxHardMtu]) {
      setMtu(mtu);
      expect(get('mtu')).toBe(mtu);
    }
    for (const mtu of [67, maxHardMtu + 1]) expect(() => setMtu(mtu)).toThrow(refused);
    expect(get('mtu')).toBe(maxHardMtu);
  });

  it('has each promiscuous mode by itself', () => {
    const names = ['promisc_uc', 'promisc_mc', 'promisc_all'] as const;
    for (const name of names) {
      modify('promisc', (input) => nicVportContext.set(input, name, 1, context));
      expect(names.map(get)).toEqual(names.map((other) => (other === name ? 1 : 0)));
    }
  });

  it('has the address that was set, until a reset', () => {
    const macAt = nicVportContext.byte('permanent_address') + 2;
    const mac = () => query().toString('hex', answer + macAt, answer + macAt + 6);
    modify('permanent_address', (input) => void input.write('02aabbccddee', context + macAt, 'hex'));
    expect(mac()).toBe('02aabbccddee');
    device.reset('flr');
    expect(Buffer.from(device.core.vport.mac).toString('hex')).toBe(testMac.replaceAll(':', ''));
  });

  it('has three lists, each set without the others, and tells as much of one as there is room for', () => {
    setList(listType.UC, [1, 2, 3]);
    setList(listType.MC, [4]);
    setList(listType.VLAN, [5, 0xfff]);
    expect([list(0, 3), list(1, 3), list(2, 3)]).toEqual([[1, 2, 3], [4], [5, 0xfff]]);
    expect([list(0, 2), list(0, 0), list(3, 3)]).toEqual([[1, 2], [], []]);
    setList(listType.UC, []);
    expect([list(0, 3), list(1, 3)]).toEqual([[], [4]]);
  });

  it('takes no list that is too long, of no kind, or cut off', () => {
    setList(listType.UC, [1]);
    const long = (length: number) => new Array<number>(length).fill(7);
    setList(listType.MC, long(limits.macList));
    expect(() => setList(listType.MC, long(limits.macList + 1))).toThrow(refused);
    expect(() => setList(listType.VLAN, long(limits.vlanList + 1))).toThrow(refused);
    expect(() => setList(listType.UC, long(limits.unicastList + 1))).toThrow(refused);
    expect(() => setList(3, [1])).toThrow(refused);
    expect(() => setList(listType.UC, [5, 6], 3)).toThrow(refused);
    expect(list(0, 9)).toEqual([1]);
  });
});

describe('the state of the vport', () => {
  const set = (state: number): void => {
    const input = Buffer.alloc(16);
    prm.modifyVportStateIn.set(input, 'admin_state', state);
    driver.command('MODIFY_VPORT_STATE', input);
  };
  const states = (): number[] => {
    const output = driver.command('QUERY_VPORT_STATE');
    return (['admin_state', 'state'] as const).map((name) => prm.queryVportStateOut.get(output, name));
  };

  it('is as the driver says; there is none beyond automatic', () => {
    const { DOWN, UP, AUTO } = vportAdminState;
    for (const [admin, state] of [
      [DOWN, vportState.DOWN],
      [UP, vportState.UP],
      [AUTO, vportState.UP],
    ] as const) {
      set(admin);
      expect(states()).toEqual([admin, state]);
    }
    expect(() => set(AUTO + 1)).toThrow(refused);
  });

  it('is as it was made after a reset', () => {
    const { vport } = device.core;
    set(vportAdminState.DOWN);
    driver.paos(portStatus.DOWN);
    driver.setMtu(9000);
    setList(listType.VLAN, [5]);
    modify('promisc', (input) => nicVportContext.set(input, 'promisc_all', 1, context));
    device.reset('flr');
    const { adminState, portAdmin, hardMtu, mtu, lists, promiscAll } = vport;
    expect({ adminState, portAdmin, hardMtu, mtu, lists, promiscAll }).toEqual({
      adminState: vportAdminState.UP,
      portAdmin: portStatus.UP,
      hardMtu: defaultHardMtu,
      mtu: defaultHardMtu,
      lists: [[], [], []],
      promiscAll: false,
    });
  });
});

it('counts frames and octets by kind, and forgets them when it is asked to', () => {
  driver.up(1);
  const kinds = ['unicast', 'multicast', 'broadcast'] as const;
  const addresses = [driver.mac, Buffer.from('010000000001', 'hex'), broadcast];
  driver.allMulti(true);
  for (const [index, dst] of addresses.entries()) port.inject(buildFrame({ dst, padTo: 100 + index }));
  const counted = (clear: 0 | 1) => {
    const input = Buffer.alloc(32);
    prm.queryVportCounterIn.set(input, 'clear', clear);
    const output = driver.command('QUERY_VPORT_COUNTER', input, prm.queryVportCounterOut.size);
    return kinds.map((kind) => {
      const at = prm.queryVportCounterOut.byte(`received_eth_${kind}`);
      return (['packets', 'octets'] as const).map((name) => prm.trafficCounter.get64(output, name, at));
    });
  };
  const all = counted(0);
  expect(all.map(([packets]) => packets)).toEqual([1, 1, 1]);
  const [first = []] = all;
  expect(all.map(([, octets]) => (octets ?? 0) - (first[1] ?? 0))).toEqual([0, 1, 2]);
  expect(counted(1)).toEqual(all);
  expect(counted(0).flat()).toEqual([0, 0, 0, 0, 0, 0]);
});

it('counts frames that the flow tables have no place for, as `ethtool -S` shows them: rx_steer_missed_packets', () => {
  driver.up(1);
  const general = driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, 1);
  const offered = prm.cmdHcaCap.get(
    general,
    'nic_receive_steering_discard',
    prm.queryHcaCapOut.byte('capability'),
  );
  expect(offered).toBe(1);
  port.inject(buildFrame({ dst: driver.mac }));
  for (let count = 0; count < 3; count++)
    port.inject(buildFrame({ dst: Buffer.from('020000000099', 'hex') }));
  const input = Buffer.alloc(prm.queryVnicEnvIn.size);
  const output = driver.command('QUERY_VNIC_ENV', input, prm.queryVnicEnvOut.size);
  const at = prm.queryVnicEnvOut.byte('vport_env');
  expect(prm.vnicDiagnosticStatistics.get64(output, 'nic_receive_steering_discard', at)).toBe(3);
  prm.queryVnicEnvIn.set(input, 'other_vport', 1);
  expect(() => driver.command('QUERY_VNIC_ENV', input, prm.queryVnicEnvOut.size)).toThrow(refused);
});

describe('a register', () => {
  const at = 16;
  const access = (id: number, fill: (data: Buffer) => void, mode: 0 | 1, bytes = 0x120): Buffer => {
    const data = Buffer.alloc(bytes);
    fill(data);
    return driver.register(id, data, mode);
  };

  it('PMTU takes what is a longest frame', () => {
    const set = (mtu: number) => access(0x5003, (data) => prm.pmtuReg.set(data, 'admin_mtu', mtu, at), 0);
    for (const mtu of [68, maxHardMtu]) {
      set(mtu);
      const read = access(0x5003, () => {}, 1);
      expect(
        (['admin_mtu', 'oper_mtu', 'max_mtu'] as const).map((name) => prm.pmtuReg.get(read, name, at)),
      ).toEqual([mtu, mtu, maxHardMtu]);
    }
    for (const mtu of [67, maxHardMtu + 1]) expect(() => set(mtu)).toThrow(refused);
  });

  it('PAOS knows up and down; operational is what has a carrier, too', () => {
    const states = () => {
      const read = access(0x5006, () => {}, 1);
      return [prm.paosReg.get(read, 'admin_status', at), prm.paosReg.get(read, 'oper_status', at)];
    };
    const { UP, DOWN } = portStatus;
    driver.paos(UP);
    expect(states()).toEqual([UP, UP]);
    port.setLink(false);
    expect(states()).toEqual([UP, DOWN]);
    port.setLink(true);
    driver.paos(DOWN);
    expect(states()).toEqual([DOWN, DOWN]);
    for (const state of [0, 3, 4]) expect(() => driver.paos(state)).toThrow(refused);
  });

  it('PTYS has one speed, while there is a carrier', () => {
    const speed = 0x10000000;
    const operational = () =>
      prm.ptysReg.get(
        access(0x5004, () => {}, 1),
        'eth_proto_oper',
        at,
      );
    const set = (admin: number) =>
      access(0x5004, (data) => prm.ptysReg.set(data, 'eth_proto_admin', admin, at), 0);
    expect(operational()).toBe(speed);
    port.setLink(false);
    expect(operational()).toBe(0);
    set(speed);
    expect(() => set(speed | 1)).toThrow(refused);
  });

  it('PFCC has no flow control to switch on', () => {
    access(0x5007, () => {}, 0);
    for (const name of ['pptx', 'pprx'] as const)
      expect(() => access(0x5007, (data) => prm.pfccReg.set(data, name, 1, at), 0)).toThrow(refused);
  });

  it('is refused that no card has, or that only reads, or is neither read nor written', () => {
    expect(() => access(0x4fff, () => {}, 1)).toThrow(refused);
    expect(() => access(0x5008, (data) => prm.ppcntReg.set(data, 'grp', 0x3f, at), 1)).toThrow(refused);
    expect(() => access(0x5008, () => {}, 0)).toThrow(refused);
    const input = Buffer.alloc(32);
    input.writeUInt16BE(0x5003, 10);
    prm.pmtuReg.set(input, 'admin_mtu', 1500, at);
    expect(() => driver.command('ACCESS_REG', input, 32, 2)).toThrow(refused);
  });
});

it('sets general capabilities, and no others', () => {
  ({ driver } = bench());
  driver.write32(0x10, 0);
  driver.write32(0x14, commandQueue);
  driver.command('ENABLE_HCA');
  const input = Buffer.alloc(4112);
  const { GENERAL, ...others } = capabilityType;
  for (const type of Object.values(others))
    expect(() => driver.command('SET_HCA_CAP', input, 16, type << 1)).toThrow(refused);
  driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, 1).copy(input, 16, 16);
  driver.command('SET_HCA_CAP', input, 16, GENERAL << 1);
  const { cmdHcaCap } = prm;
  const set = (name: keyof typeof cmdHcaCap.fields, value: number) => {
    const wanted = Buffer.from(input);
    cmdHcaCap.set(wanted, name, value, 16);
    driver.command('SET_HCA_CAP', wanted, 16, GENERAL << 1);
    return cmdHcaCap.get(driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, 1), name, 16);
  };
  // Less than there is, or the page size of the driver's system; never more.
  expect(set('log_max_cq', 3)).toBe(3);
  expect(set('log_uar_page_sz', 4)).toBe(4);
  for (const name of ['log_max_cq', 'striding_rq', 'cmdif_checksum'] as const)
    expect(() => set(name, cmdHcaCap.get(input, name, 16) + 1)).toThrow(refused);
});
