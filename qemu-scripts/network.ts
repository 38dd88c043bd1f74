/**
 * What a guest with a network card talks to, in scripts and tests: a switch, and behind it a real Linux network stack
 * where one can be made, else a small peer of our own.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { askSwitch, type SwitchStats, specText } from '../src/net/index.ts';
import { canUseTaps, TestNet } from '../src/net/testnet.ts';
import { LaunchError, ManagedProcess, type Testbed } from '../src/qemu/index.ts';
import { checkoutRoot } from '../src/setup/index.ts';
import { temporaryFolder } from '../src/temporary-folder.ts';

/** Where two ends of a flow find each other. */
export interface Net {
  readonly peer: string;
  readonly guest: string;
  readonly vlan: number | undefined;
}

/** Addresses of the peer; the guest takes `.2` where the peer has `.1`. */
export const plainNet = { peer: '10.77.0.1', guest: '10.77.0.2', vlan: undefined } as const;
/** The same peer in VLAN 5. */
export const vlanNet = { peer: '10.78.0.1', guest: '10.78.0.2', vlan: 5 } as const;
/** The same over IPv6; the guest has it after `configureIpv6`. */
export const plainNet6 = { peer: 'fd77::1', guest: 'fd77::2', vlan: undefined } as const;

export interface NetworkOptions {
  /** Default: `linux` where it can be made. */
  readonly peer?: 'linux' | 'test-peer';
  /** Frames kept for a parked port; default 8192. 1 shows what parking is good for. */
  readonly parkLimit?: number;
}

/** What may wait in a tap for the switch, and there for a guest: on a loaded machine that can be seconds of traffic. */
const queueFrames = 10_000;

/** A switch with a peer behind it. `close()` leaves nothing. */
export class Network {
  readonly peer: 'linux' | 'test-peer';
  readonly socket: string;
  /** Only with a Linux peer. */
  readonly testNet: TestNet | undefined;
  readonly #folder: string;
  readonly #processes: ManagedProcess[] = [];

  private constructor(peer: 'linux' | 'test-peer', folder: string, testNet: TestNet | undefined) {
    this.peer = peer;
    this.socket = join(folder, 'switch');
    this.testNet = testNet;
    this.#folder = folder;
  }

  static async create(options: NetworkOptions = {}): Promise<Network> {
    const peer = options.peer ?? (canUseTaps().ok ? 'linux' : 'test-peer');
    const folder = temporaryFolder('vc-net-');
    let testNet: TestNet | undefined;
    try {
      if (peer === 'linux')
        testNet = await TestNet.create({ taps: 1, address: `${plainNet.peer}/24`, mtu: 9000 });
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
    const network = new Network(peer, folder, testNet);
    try {
      await network.#start(options.parkLimit ?? 8192);
      return network;
    } catch (error) {
      await network.close();
      throw error;
    }
  }

  /** Arguments of `serve` that join a device to the switch. */
  serveArguments(identity: string): string[] {
    return ['--net', `switch:${specText(this.socket)},id=${identity}`];
  }

  /** Starts a program beside the peer (with a Linux peer: in its namespace). Ended by `close()`. */
  async spawn(name: string, program: string, ...args: string[]): Promise<ManagedProcess> {
    const [command, all] = this.testNet?.command(program, ...args) ?? [program, args];
    return this.#spawn(name, command, all);
  }

  /** A file of this network's own folder. */
  path(name: string): string {
    return join(this.#folder, name);
  }

  /** Pulls or plugs the guest's cable, at the switch. */
  setLink(identity: string, up: boolean): void {
    askSwitch(this.socket, { op: 'setLink', port: identity, up });
  }

  /** Has the switch do nothing for so long, as when other work takes the processors. */
  starveSwitch(ms: number): void {
    const [switchProcess] = this.#processes;
    switchProcess?.signal('SIGSTOP');
    setTimeout(() => switchProcess?.signal('SIGCONT'), ms);
  }

  /** Ports and counters of the switch. */
  stats(): SwitchStats {
    const answer = askSwitch(this.socket, { op: 'stats' });
    if (answer.op !== 'stats') throw new Error(`the switch answered ${answer.op}`);
    return answer.stats as SwitchStats;
  }

  /** Everywhere that a frame can get lost, for the message of a failed check. */
  async losses(bed: Testbed, device = 'eth0'): Promise<string> {
    const { ports: present, departed } = this.stats();
    const ports = [...present, { name: 'ports that left', state: '', ...departed }].map(
      ({ name, state, inFrames, outFrames, dropped, parkDropped }) =>
        [name, state, `in ${inFrames} out ${outFrames} dropped ${dropped} park ${parkDropped}`].join(' '),
    );
    const guest = await bed.agent.run(
      `grep -h Udp: /proc/net/snmp; tc -s qdisc show dev ${device}; ` +
        `ethtool -S ${device} | grep -iE 'drop|out_of|err|discard|vport_.*_packets' | grep -v ': 0$'`,
    );
    const peer = await this.testNet?.run(
      'sh',
      '-c',
      'ip -s link | grep -A1 -E "dropped|^[0-9]"; grep -h Udp: /proc/self/net/snmp',
    );
    return ['switch:', ...ports, 'guest:', guest.stdout, 'peer:', peer ?? ''].join('\n');
  }

  async close(): Promise<void> {
    for (const process of this.#processes.reverse()) await process.kill();
    await this.testNet?.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #start(parkLimit: number): Promise<void> {
    const uplinks = this.testNet === undefined ? [] : await this.#uplinks(this.testNet);
    await this.#ready('switch', [
      'dist/src/cli/main.js',
      'switch',
      ...['--socket', this.socket, '--park-limit', String(parkLimit)],
      ...['--queue-limit', String(queueFrames)],
      ...uplinks.flatMap((spec) => ['--uplink', spec]),
    ]);
    if (this.testNet === undefined) {
      await this.#ready('peer', ['dist/qemu-scripts/test-peer.js', this.socket, plainNet.peer]);
      await this.#ready('peer-vlan', ['dist/qemu-scripts/test-peer.js', this.socket, vlanNet.peer]);
    }
  }

  /** The bridge's tap, and one that is an access port of the VLAN. */
  async #uplinks(net: TestNet): Promise<string[]> {
    for (const line of [
      `link set tap0 txqueuelen ${queueFrames}`,
      'tuntap add dev vlan mode tap',
      `link set vlan mtu 9000 txqueuelen ${queueFrames} up`,
      `address add ${vlanNet.peer}/24 dev vlan`,
    ])
      await net.run('ip', ...line.split(' '));
    return [net.tapSpec(0), `tap:vlan@${net.namespace},vlan=${vlanNet.vlan}`];
  }

  async #ready(name: string, args: readonly string[]): Promise<void> {
    const [script = '', ...rest] = args;
    let ready: () => void = () => undefined;
    const said = new Promise<void>((resolve) => {
      ready = resolve;
    });
    const process = await this.#spawn(name, nodeProgram(), [join(checkoutRoot(), script), ...rest], () =>
      ready(),
    );
    const ended = process.exited.then(() => {
      throw new LaunchError(process.epitaph());
    });
    await Promise.race([said, ended]);
    ended.catch(() => undefined);
  }

  async #spawn(
    name: string,
    command: string,
    args: readonly string[],
    onLine?: (line: string) => void,
  ): Promise<ManagedProcess> {
    const process = await ManagedProcess.spawn({
      name,
      command,
      args,
      logPath: this.path(`${name}.log`),
      ...(onLine === undefined ? {} : { onLine }),
    });
    this.#processes.push(process);
    return process;
  }
}

function nodeProgram(): string {
  return process.execPath;
}

/** Brings the guest's interface up with an address, and one in the VLAN on top, where that is not done yet. */
export async function configureGuest(bed: Testbed, device = 'eth0'): Promise<void> {
  const dev = `${device}.${vlanNet.vlan}`;
  await bed.agent.check(
    [
      'sysctl -qw net.ipv6.conf.all.disable_ipv6=1 2>/dev/null',
      `ip link set ${device} up`,
      `ip addr add ${plainNet.guest}/24 dev ${device}`,
      `ip link add link ${device} name ${dev} type vlan id ${vlanNet.vlan}`,
      `ip link set ${dev} up`,
      `ip addr add ${vlanNet.guest}/24 dev ${dev}`,
      `until ping -c 1 -W 1 ${plainNet.peer} >/dev/null; do :; done`,
    ].join('; '),
  );
}

/** Gives guest and peer IPv6 addresses on top (`plainNet6`). Needs a Linux peer. */
export async function configureIpv6(bed: Testbed, network: Network, device = 'eth0'): Promise<void> {
  await network.testNet?.run('ip', 'address', 'add', `${plainNet6.peer}/64`, 'dev', 'br0', 'nodad');
  await bed.agent.check(
    `sysctl -qw net.ipv6.conf.${device}.disable_ipv6=0; ip address add ${plainNet6.guest}/64 dev ${device} nodad; ` +
      `until ping -c 1 -W 1 ${plainNet6.peer} >/dev/null; do :; done`,
  );
}

/** Lines of the guest's log of level warning or worse about cards, drivers, or anything that went wrong at all. */
export async function guestWarnings(bed: Testbed): Promise<string[]> {
  const log = await bed.agent.check('dmesg -r');
  return log
    .split('\n')
    .filter((line) => /^<[0-4]>/.test(line))
    .filter((line) => /mlx5|eth\d|netdev|NETDEV|WARNING|BUG:|Oops|Call Trace|blocked for|stall/.test(line));
}
