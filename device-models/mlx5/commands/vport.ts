import type { Mlx5Core } from '../core.ts';
import { limits, maxHardMtu } from '../limits.ts';
import {
  macAddressLayout,
  modifyNicVportContextIn,
  modifyNicVportFieldSelect,
  modifyVportStateIn,
  nicVportContext,
  queryNicVportContextIn,
  queryNicVportContextOut,
  queryVnicEnvIn,
  queryVnicEnvOut,
  queryVportCounterIn,
  queryVportCounterOut,
  queryVportStateIn,
  queryVportStateOut,
  trafficCounter,
  vlanLayout,
  vnicDiagnosticStatistics,
} from '../prm/index.ts';
import { require } from '../refusal.ts';
import { listType, macBytes, vportAdminState, vportState } from '../vport.ts';
import { command } from './command.ts';

const listEntryBytes = macAddressLayout.size;
const vlanMask = 0xfff;
/** Entries of each list, as `log_max_current_uc_list` and so on say. */
const longest = {
  [listType.UC]: limits.unicastList,
  [listType.MC]: limits.macList,
  [listType.VLAN]: limits.vlanList,
} as const;
const minHardMtu = 68;

function writeMac(output: Buffer, at: number, mac: number): void {
  macAddressLayout.set(output, 'mac_addr_47_32', Math.floor(mac / 2 ** 32), at);
  macAddressLayout.set(output, 'mac_addr_31_0', mac % 2 ** 32, at);
}

function readMac(input: Buffer, at: number): number {
  const high = macAddressLayout.get(input, 'mac_addr_47_32', at);
  return high * 2 ** 32 + macAddressLayout.get(input, 'mac_addr_31_0', at);
}

/** The MAC address in the last six bytes of a `mac_address_layout`. */
const macInLayout = listEntryBytes - macBytes;

function queryNicVportContext(core: Mlx5Core, input: Buffer, output: Buffer): void {
  require(queryNicVportContextIn.get(input, 'other_vport') === 0, 'otherFunction', 'another vport');
  const { vport } = core;
  const at = queryNicVportContextOut.byte('nic_vport_context');
  const type = queryNicVportContextIn.get(input, 'allowed_list_type');
  nicVportContext.set(output, 'mtu', vport.mtu, at);
  nicVportContext.set(output, 'promisc_uc', vport.promiscUc ? 1 : 0, at);
  nicVportContext.set(output, 'promisc_mc', vport.promiscMc ? 1 : 0, at);
  nicVportContext.set(output, 'promisc_all', vport.promiscAll ? 1 : 0, at);
  output.set(vport.mac, at + nicVportContext.byte('permanent_address') + macInLayout);
  const list = vport.lists[type as 0 | 1 | 2] ?? [];
  const start = at + nicVportContext.byte('current_uc_mac_address');
  const room = Math.max(0, Math.floor((output.length - start) / listEntryBytes));
  const count = Math.min(list.length, room);
  nicVportContext.set(output, 'allowed_list_type', type, at);
  nicVportContext.set(output, 'allowed_list_size', count, at);
  for (let index = 0; index < count; index++) {
    const entry = start + index * listEntryBytes;
    if (type === listType.VLAN) vlanLayout.set(output, 'vlan', list[index] ?? 0, entry);
    else writeMac(output, entry, list[index] ?? 0);
  }
}

function readList(input: Buffer, at: number): { type: 0 | 1 | 2; list: number[] } {
  const type = nicVportContext.get(input, 'allowed_list_type', at);
  const size = nicVportContext.get(input, 'allowed_list_size', at);
  const start = at + nicVportContext.byte('current_uc_mac_address');
  require(type <= listType.VLAN, 'unsupportedType', `list type ${type}`);
  require(size <= longest[type as 0 | 1 | 2], 'badSize', `list of ${size}`);
  require(input.length >= start + size * listEntryBytes, 'badPageList', 'address list is cut off');
  const list: number[] = [];
  for (let index = 0; index < size; index++) {
    const entry = start + index * listEntryBytes;
    list.push(
      type === listType.VLAN ? vlanLayout.get(input, 'vlan', entry) & vlanMask : readMac(input, entry),
    );
  }
  return { type: type as 0 | 1 | 2, list };
}

function modifyNicVportContext(core: Mlx5Core, input: Buffer): void {
  require(modifyNicVportContextIn.get(input, 'other_vport') === 0, 'otherFunction', 'another vport');
  const { vport } = core;
  const select = modifyNicVportContextIn.byte('field_select');
  const at = modifyNicVportContextIn.byte('nic_vport_context');
  const asks = (name: keyof typeof modifyNicVportFieldSelect.fields) =>
    modifyNicVportFieldSelect.get(input, name, select) === 1;
  // All is read and checked before anything changes.
  const mtu = nicVportContext.get(input, 'mtu', at);
  if (asks('mtu')) require(mtu >= minHardMtu && mtu <= maxHardMtu, 'badSize', `vport MTU ${mtu}`);
  const given = asks('addresses_list') ? readList(input, at) : undefined;
  const { own } = vport;
  if (given !== undefined) {
    vport.lists = [
      given.type === listType.UC ? given.list : vport.lists[0],
      given.type === listType.MC ? given.list : vport.lists[1],
      given.type === listType.VLAN ? given.list : vport.lists[2],
    ];
  }
  if (asks('mtu')) vport.mtu = mtu;
  if (asks('promisc')) {
    vport.promiscUc = nicVportContext.get(input, 'promisc_uc', at) === 1;
    vport.promiscMc = nicVportContext.get(input, 'promisc_mc', at) === 1;
    vport.promiscAll = nicVportContext.get(input, 'promisc_all', at) === 1;
  }
  if (asks('permanent_address')) {
    const mac = at + nicVportContext.byte('permanent_address') + macInLayout;
    vport.mac = Uint8Array.from(input.subarray(mac, mac + macBytes));
  }
  if (vport.own !== own) vport.known = false;
}

function queryVportCounter(core: Mlx5Core, input: Buffer, output: Buffer): void {
  require(queryVportCounterIn.get(input, 'other_vport') === 0, 'otherFunction', 'another vport');
  const { vport, events } = core.counters;
  const put = (name: keyof typeof queryVportCounterOut.fields, packets = 0, octets = 0) => {
    const at = queryVportCounterOut.byte(name);
    trafficCounter.set64(output, 'packets', packets, at);
    trafficCounter.set64(output, 'octets', octets, at);
  };
  put('received_errors', events.rxTooLong);
  put('transmit_errors', events.txErrors);
  put('received_eth_unicast', vport.rx.packets[0], vport.rx.octets[0]);
  put('received_eth_multicast', vport.rx.packets[1], vport.rx.octets[1]);
  put('received_eth_broadcast', vport.rx.packets[2], vport.rx.octets[2]);
  put('transmitted_eth_unicast', vport.tx.packets[0], vport.tx.octets[0]);
  put('transmitted_eth_multicast', vport.tx.packets[1], vport.tx.octets[1]);
  put('transmitted_eth_broadcast', vport.tx.packets[2], vport.tx.octets[2]);
  if (queryVportCounterIn.get(input, 'clear') === 1) core.counters.clearVport();
}

/** What else befell the vport. Of these counters a driver shows those that a capability offers: there is one. */
function queryVnicEnv(core: Mlx5Core, input: Buffer, output: Buffer): void {
  require(queryVnicEnvIn.get(input, 'other_vport') === 0, 'otherFunction', 'another vport');
  const at = queryVnicEnvOut.byte('vport_env');
  vnicDiagnosticStatistics.set64(output, 'nic_receive_steering_discard', core.counters.events.rxFiltered, at);
}

/** The virtual port. */
export const vportCommands = [
  command('QUERY_VPORT_STATE', queryVportStateIn, queryVportStateOut, (core, input, output) => {
    require(queryVportStateIn.get(input, 'other_vport') === 0, 'otherFunction', 'another vport');
    queryVportStateOut.set(output, 'admin_state', core.vport.adminState);
    queryVportStateOut.set(output, 'state', core.carrier() ? vportState.UP : vportState.DOWN);
  }),
  command('MODIFY_VPORT_STATE', modifyVportStateIn, undefined, (core, input) => {
    require(modifyVportStateIn.get(input, 'other_vport') === 0, 'otherFunction', 'another vport');
    const state = modifyVportStateIn.get(input, 'admin_state');
    require(state <= vportAdminState.AUTO, 'badState', `admin state ${state}`);
    core.vport.adminState = state;
  }),
  command('QUERY_NIC_VPORT_CONTEXT', queryNicVportContextIn, queryNicVportContextOut, queryNicVportContext),
  command('MODIFY_NIC_VPORT_CONTEXT', modifyNicVportContextIn, undefined, modifyNicVportContext),
  command('QUERY_VNIC_ENV', queryVnicEnvIn, queryVnicEnvOut, queryVnicEnv),
  command('QUERY_VPORT_COUNTER', queryVportCounterIn, queryVportCounterOut, queryVportCounter),
];
