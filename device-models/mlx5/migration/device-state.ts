import type { Cycles } from '../clock.ts';
import type { CommandInterface } from '../command-interface.ts';
import type { Mlx5Core } from '../core.ts';
import { type Events, sizeBuckets, type Traffic } from '../counters.ts';
import { type FunctionPhase, functionPhase } from '../function-state.ts';
import { limits, maxHardMtu } from '../limits.ts';
import { adapterPageBytes } from '../memory.ts';
import { cmdHcaCap } from '../prm/index.ts';
import { isUnicast, macBytes, portStatus, vportAdminState } from '../vport.ts';
import type { StateReader } from './reader.ts';

/**
 * Versions of the saved state. Version 1 had `cycles` in one number and no factory address. A server that knows only that is refused before
 * anything is touched; without a new version it would refuse when the guest stands still, or pass over the address. Version 2 did not
 * tell whether the network knows the interface's address to be here, and its driver was offered less: asked by one of version 3, older servers
 * would fill its log with errors (QUERY_VNIC_ENV, registers of the firmware).
 */
export const stateVersions = { current: 3, first: 1 } as const;

/** The version that first tells whether the network knows the own address. */
const knownSince = 3;
const maxMac = 2 ** 48 - 1;
const wordValues = 2 ** 32;

function saveTraffic({ packets, octets }: Traffic): Record<string, number[]> {
  return { packets: [...packets], octets: [...octets] };
}

function loadTraffic(target: Traffic, state: StateReader): void {
  for (const name of ['packets', 'octets'] as const) {
    const values = state.numbers(name, 3, Number.MAX_SAFE_INTEGER);
    if (values.length !== 3) throw state.refuse(name, 'does not have three counters');
    target[name].set(values);
  }
}

function loadCycles(state: StateReader, version: number): Cycles {
  if (version === stateVersions.first) {
    const cycles = state.number('cycles', 0, Number.MAX_SAFE_INTEGER);
    return { high: Math.floor(cycles / wordValues), low: cycles % wordValues };
  }
  const cycles = state.record('cycles');
  return { high: cycles.uint('high', 32), low: cycles.uint('low', 32) };
}

function loadFactoryMac(port: StateReader): Uint8Array {
  const mac = port.bytes('factoryMac', macBytes);
  if (!isUnicast(mac)) throw port.refuse('factoryMac', 'is no unicast address');
  return mac;
}

/** Everything that belongs to the function as a whole and not to an object. */
export function saveDevice(core: Mlx5Core, commands: CommandInterface): Record<string, unknown> {
  const { vport, counters } = core;
  return {
    phase: core.function.phase,
    issi: core.function.issi,
    general: Uint8Array.from(core.function.general),
    grantedPages: [...core.function.pages],
    commands: { ...commands.state },
    steeringRoot: core.steering.root ?? 0,
    cycles: { ...core.clock.cycles() },
    linkReported: core.link.reported,
    failNextSend: core.sqs.failNext,
    vport: {
      factoryMac: Uint8Array.from(vport.factoryMac),
      mac: Uint8Array.from(vport.mac),
      mtu: vport.mtu,
      promiscUc: vport.promiscUc,
      promiscMc: vport.promiscMc,
      promiscAll: vport.promiscAll,
      uc: [...vport.lists[0]],
      mc: [...vport.lists[1]],
      vlan: [...vport.lists[2]],
      adminState: vport.adminState,
      portAdmin: vport.portAdmin,
      hardMtu: vport.hardMtu,
      known: vport.known,
    },
    counters: {
      portRx: saveTraffic(counters.port.rx),
      portTx: saveTraffic(counters.port.tx),
      vportRx: saveTraffic(counters.vport.rx),
      vportTx: saveTraffic(counters.vport.tx),
      rxSizes: [...counters.rxSizes],
      events: { ...counters.events },
    },
  };
}

/**
 * Puts a saved function in place. The link itself is this side's own: only what the guest was told is loaded.
 * @returns where the clock stood
 */
export function loadDevice(
  core: Mlx5Core,
  commands: CommandInterface,
  state: StateReader,
  version: number,
): Cycles {
  const { vport, counters } = core;
  core.function.phase = state.number(
    'phase',
    functionPhase.DISABLED,
    functionPhase.INITIALIZED,
  ) as FunctionPhase;
  core.function.issi = state.number('issi', 0, 31);
  core.function.general = Buffer.from(state.bytes('general', cmdHcaCap.size));
  core.function.pages.length = 0;
  for (const page of state.numbers('grantedPages', limits.grantedPages, Number.MAX_SAFE_INTEGER)) {
    if (page % adapterPageBytes !== 0) throw state.refuse('grantedPages', 'has an unaligned page');
    core.function.pages.push(page);
  }
  const queue = state.record('commands');
  commands.state = {
    addressHigh: queue.uint('addressHigh', 32),
    addressLow: queue.uint('addressLow', 32),
    highLatch: queue.uint('highLatch', 32),
    pending: queue.uint('pending', 32),
  };
  const root = state.uint('steeringRoot', 24);
  core.steering.root = root === 0 ? undefined : root;
  const cycles = loadCycles(state, version);
  core.link.reported = state.boolean('linkReported');
  core.sqs.failNext = state.boolean('failNextSend');
  const port = state.record('vport');
  // A state of version 1 does not tell: the address after a reset is this process's then.
  vport.arrive(version === stateVersions.first ? undefined : loadFactoryMac(port));
  vport.mac = port.bytes('mac', macBytes);
  vport.mtu = port.number('mtu', 0, maxHardMtu);
  vport.promiscUc = port.boolean('promiscUc');
  vport.promiscMc = port.boolean('promiscMc');
  vport.promiscAll = port.boolean('promiscAll');
  vport.lists = [
    port.numbers('uc', limits.macList, maxMac),
    port.numbers('mc', limits.macList, maxMac),
    port.numbers('vlan', limits.vlanList, 0xfff),
  ];
  vport.adminState = port.number('adminState', vportAdminState.DOWN, vportAdminState.AUTO);
  vport.portAdmin = port.number('portAdmin', portStatus.UP, portStatus.DOWN);
  vport.hardMtu = port.number('hardMtu', 0, maxHardMtu);
  vport.known = version < knownSince || port.boolean('known');
  const counted = state.record('counters');
  loadTraffic(counters.port.rx, counted.record('portRx'));
  loadTraffic(counters.port.tx, counted.record('portTx'));
  loadTraffic(counters.vport.rx, counted.record('vportRx'));
  loadTraffic(counters.vport.tx, counted.record('vportTx'));
  const sizes = counted.numbers('rxSizes', sizeBuckets.length, Number.MAX_SAFE_INTEGER);
  counters.rxSizes.set(sizes);
  const events = counted.record('events');
  for (const name of Object.keys(counters.events) as (keyof Events)[]) {
    counters.events[name] = events.counter(name);
  }
  return cycles;
}
