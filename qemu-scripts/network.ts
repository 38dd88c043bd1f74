/**
 * What a guest with a network card talks to, in scripts and tests: a switch, and behind it a real Linux network stack
 * where one can be made, else a small peer of our own.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { askSwitch, type SwitchStats } from '../src/net/index.ts';
import { canUseTaps, TestNet } from '../src/net/testnet.ts';
import { ManagedProcess, type Testbed } from '../src/qemu/index.ts';
import { checkoutRoot, locateKernel } from '../src/setup/index.ts';

/** Addresses of the peer; the guest takes `.2` where the peer has `.1`. */
export const plainNet = { peer: '10.77.0.1', guest: '10.77.0.2', vlan: undefined } as const;
/** The same peer in VLAN 5. */
export const vlanNet = { peer: '10.78.0.1', guest: '10.78.0.2', vlan: 5 } as const;
/** The same over IPv6; the guest has it after `configureIpv6`. */
export const plainNet6 = { peer: 'fd77::1', guest: 'fd77::2', vlan: undefined } as const;
export type Net = typeof plainNet | typeof vlanNet | typeof plainNet6;

export interface NetworkOptions {
  /** Default: `linux` where it can be made. */
  readonly peer?: 'linux' | 'test-peer';
  /** Frames kept for a parked port; default 8192. 1 shows what parking is good for. */
  readonly parkLimit?: number;
}

/** What may wait in a tap for the switch: on a loaded machine that can be seconds of traffic. */
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
    const folder = mkdtempSync(join(tmpdir(), 'vc-net-'));
    const testNet =
      peer === 'linux'
        ? await TestNet.create({ taps: 1, address: `${plainNet.peer}/24`, mtu: 9000 })
        : undefined;
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
    return ['--net', `switch:${this.socket},id=${identity}`];
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

  /** Ports and counters of the switch. */
  stats(): SwitchStats {
    const answer = askSwitch(this.socket, { op: 'stats' });
    if (answer.op !== 'stats') throw new Error(`the switch answered ${answer.op}`);
    return answer.stats as SwitchStats;
  }

  /** Everywhere that a frame can get lost, for the message of a failed check. */
  async losses(bed: Testbed, device = 'eth0'): Promise<string> {
    const ports = this.stats().ports.map(({ name, state, dropped, parkDropped }) =>
      [name, state, `dropped ${dropped}`, `park ${parkDropped}`].join(' '),
    );
    const guest = await bed.agent.run(
      `grep -h Udp: /proc/net/snmp; ethtool -S ${device} | grep -iE 'drop|out_of|err|discard' | grep -v ': 0$'`,
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
      throw new Error(process.epitaph());
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

/** The report of `traffic` (images/guest/traffic.c) for TCP. */
export interface TcpReport {
  readonly sent: number;
  readonly received: number;
  readonly sentHash: string;
  readonly receivedHash: string;
  readonly gapMs: number;
  readonly done: boolean;
  readonly error: string;
}

/** The same for UDP. */
export interface UdpReport {
  readonly sent: number;
  readonly received: number;
  readonly missing: number;
  readonly hole: number;
  readonly reordered: number;
  readonly duplicates: number;
  readonly gapMs: number;
  readonly done: boolean;
  readonly error: string;
}

/** What both ends of a flow say. */
export interface Ends<T> {
  readonly guest: T;
  readonly peer: T;
}

/** One flow between guest and peer, run by `traffic` at both ends. */
export class Flow<T extends { done: boolean; error: string }> {
  readonly name: string;
  readonly #bed: Testbed;
  readonly #network: Network;
  readonly #process: ManagedProcess | undefined;

  private constructor(name: string, bed: Testbed, network: Network, process: ManagedProcess | undefined) {
    this.name = name;
    this.#bed = bed;
    this.#network = network;
    this.#process = process;
  }

  /** A TCP connection, data in both directions, `rate` bytes a second each. The peer connects. */
  static async tcp(
    bed: Testbed,
    network: Network,
    net: Net,
    port: number,
    rate: number,
  ): Promise<Flow<TcpReport>> {
    const name = `tcp${port}`;
    await startInGuest(bed, name, `tcp listen ${port} --rate ${rate}`);
    await bed.agent.check(`until ss -ltn | grep -q ':${port} '; do sleep 0.05; done`);
    const args = ['tcp', 'connect', net.guest, String(port), '--rate', String(rate)];
    return new Flow<TcpReport>(name, bed, network, await startAtPeer(network, name, args));
  }

  /**
   * Numbered datagrams both ways, `rate` a second. Without a Linux peer the guest's datagrams come back from an echo,
   * so that both directions are in the guest's report.
   */
  static async udp(
    bed: Testbed,
    network: Network,
    net: Net,
    port: number,
    rate: number,
    size = 64,
  ): Promise<Flow<UdpReport>> {
    const name = `udp${port}`;
    const options = ['--rate', String(rate), '--size', String(size)];
    const linux = network.peer === 'linux';
    const to = linux ? port : echoPort;
    const peer = linux
      ? await startAtPeer(network, name, ['udp', String(port), net.guest, String(port), ...options])
      : undefined;
    await startInGuest(bed, name, `udp ${port} ${net.peer} ${to} ${options.join(' ')}`);
    return new Flow<UdpReport>(name, bed, network, peer);
  }

  async look(): Promise<Ends<T>> {
    const guest = await this.inGuest();
    return { guest, peer: this.#atPeer() ?? guest };
  }

  async inGuest(): Promise<T> {
    const text = await this.#bed.agent.check(
      `until [ -s /run/${this.name} ]; do sleep 0.05; done; cat /run/${this.name}`,
    );
    return JSON.parse(text) as T;
  }

  /** Ends the flow in order and returns the final reports. @throws Error when an end reports a fault */
  async end(): Promise<Ends<T>> {
    // Not with a TCP flow's other end first: each ends when the other has.
    this.#process?.signal('SIGTERM');
    await this.#bed.agent.check(
      `kill $(cat /run/${this.name}.pid) 2>/dev/null; while kill -0 $(cat /run/${this.name}.pid) 2>/dev/null; do sleep 0.05; done`,
    );
    await this.#process?.exited;
    const ends = await this.look();
    for (const [where, report] of Object.entries(ends)) {
      if (!report.done || report.error !== '')
        throw new Error(`${this.name}: at the ${where}: ${report.error || 'it did not end'}`);
    }
    return ends;
  }

  #atPeer(): T | undefined {
    if (this.#process === undefined) return undefined;
    return JSON.parse(readFileSync(this.#network.path(`${this.name}.json`), 'utf8')) as T;
  }
}

/** Port of the test peer's UDP echo (RFC 862). */
const echoPort = 7;

async function startInGuest(bed: Testbed, name: string, args: string): Promise<void> {
  await bed.agent.check(
    `rm -f /run/${name}; traffic ${args} --report /run/${name} >/run/${name}.out 2>&1 & echo $! >/run/${name}.pid`,
  );
}

/** The guest's own program is static: it runs on the host as well. */
async function startAtPeer(network: Network, name: string, args: readonly string[]): Promise<ManagedProcess> {
  const program = join(dirname((await locateKernel()).initrd), 'programs/traffic');
  const report = network.path(`${name}.json`);
  rmSync(report, { force: true });
  return network.spawn(name, program, ...args, '--report', report);
}

export interface PingReport {
  readonly sent: number;
  readonly lost: number;
  readonly duplicates: number;
}

/** `ping` in the guest, 100 a second, until `end()`. */
export class Pings {
  readonly #bed: Testbed;
  readonly #log: string;

  private constructor(bed: Testbed, log: string) {
    this.#bed = bed;
    this.#log = log;
  }

  static async start(bed: Testbed, net: Net): Promise<Pings> {
    const log = `/run/ping.${net.peer}`;
    await bed.agent.check(`ping -i 0.01 ${net.peer} >${log} 2>&1 & echo $! >${log}.pid`);
    return new Pings(bed, log);
  }

  /** Ends them. What was under way at the end is not counted as sent: each reply is looked at by its number. */
  async end(): Promise<PingReport> {
    const count =
      '/bytes from/ { split($2, part, " "); n = part[1] + 0; if (n in seen) again++; ' +
      'else { seen[n] = 1; got++ } if (n > last) last = n } END { print last + 0, got + 0, again + 0 }';
    const text = await this.#bed.agent.check(
      `kill -INT $(cat ${this.#log}.pid); while kill -0 $(cat ${this.#log}.pid) 2>/dev/null; do sleep 0.05; done; ` +
        `awk -F icmp_seq= '${count}' ${this.#log}`,
    );
    const [sent = 0, received = 0, duplicates = 0] = text.split(' ').map(Number);
    return { sent, lost: sent - received, duplicates };
  }
}

/** Brings the guest's interface up with an address, and one in the VLAN on top. */
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
