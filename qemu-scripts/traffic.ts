/** All the traffic that a migration has to leave alone, at once, and what counts as a fault of it. */
import type { Testbed } from '../src/qemu/index.ts';
import { type Ends, Flow, type PingReport, Pings, type TcpReport, type UdpReport } from './flows.ts';
import type { Net, Network } from './network.ts';

export interface TrafficOptions {
  /** Datagrams a second each way. Default 1000. */
  readonly rate?: number;
  /** Bytes of each. Default 64. */
  readonly size?: number;
  /** Bytes a second of the TCP stream, each way. Default 300,000. */
  readonly streamRate?: number;
}

/** What all of it came to, for one net. */
export interface TrafficReport {
  readonly pings: PingReport;
  readonly udp: Ends<UdpReport>;
  /** Not where the peer has no TCP. */
  readonly tcp?: Ends<TcpReport>;
}

/** A TCP connection (with a Linux peer), numbered datagrams and 100 pings a second on one net, in both directions. */
export class Traffic {
  readonly net: Net;
  readonly #tcp: Flow<TcpReport> | undefined;
  readonly #udp: Flow<UdpReport>;
  readonly #pings: Pings;

  private constructor(net: Net, tcp: Flow<TcpReport> | undefined, udp: Flow<UdpReport>, pings: Pings) {
    this.net = net;
    this.#tcp = tcp;
    this.#udp = udp;
    this.#pings = pings;
  }

  /** Uses `port` and the one after it. */
  static async start(
    bed: Testbed,
    network: Network,
    net: Net,
    port: number,
    { rate = 1000, size = 64, streamRate = 300_000 }: TrafficOptions = {},
  ): Promise<Traffic> {
    const tcp = network.peer === 'linux' ? await Flow.tcp(bed, network, net, port, streamRate) : undefined;
    const udp = await Flow.udp(bed, network, net, port + 1, { rate, size });
    return new Traffic(net, tcp, udp, await Pings.start(bed, net));
  }

  /** Waits until more has arrived at both ends of every flow. @throws Error when nothing does for `timeoutMs` */
  async progress(timeoutMs = 30_000): Promise<void> {
    const flows = [this.#tcp, this.#udp].filter((flow) => flow !== undefined);
    for (const flow of flows) {
      const deadline = Date.now() + timeoutMs;
      const before = await flow.look();
      for (;;) {
        const now = await flow.look();
        const stuck = (['guest', 'peer'] as const).filter(
          (end) => now[end].received <= before[end].received + enough,
        );
        if (stuck.length === 0) break;
        if (Date.now() > deadline)
          throw new Error(`${flow.name}: nothing arrives at the ${stuck.join(' and the ')} any more`);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  /** Ends everything in order. @throws Error when a connection broke */
  async end(): Promise<TrafficReport> {
    const [pings, udp, tcp] = await Promise.all([this.#pings.end(), this.#udp.end(), this.#tcp?.end()]);
    return { pings, udp, ...(tcp === undefined ? {} : { tcp }) };
  }
}

/** Ends several and tells the faults of all. @throws Error when a connection broke */
export async function endAll(traffic: readonly Traffic[]): Promise<string[]> {
  const faults = traffic.map(async (each) => faultsOf(each.net, await each.end()));
  return (await Promise.all(faults)).flat();
}

/** Bytes or datagrams that are progress. */
const enough = 50;

/** What was lost, changed, doubled or exchanged, in words; nothing when all arrived as it was sent. */
export function faultsOf(net: Net, { pings, udp, tcp }: TrafficReport): string[] {
  const where = net.vlan === undefined ? 'plain' : `VLAN ${net.vlan}`;
  const faults: string[] = [];
  if (pings.sent === 0) faults.push('no ping was sent');
  for (const name of ['lost', 'duplicates'] as const)
    if (pings[name] > 0) faults.push(`pings: ${pings[name]} of ${pings.sent} ${name}`);
  for (const [end, report] of Object.entries(udp)) {
    if (report.received === 0) faults.push(`UDP: nothing arrived at the ${end}`);
    for (const name of ['missing', 'reordered', 'duplicates'] as const)
      if (report[name] > 0)
        faults.push(`UDP to the ${end}: ${report[name]} ${name} beside ${report.received}`);
  }
  if (tcp !== undefined)
    for (const [from, to] of [
      ['guest', 'peer'],
      ['peer', 'guest'],
    ] as const) {
      const { sent, sentHash } = tcp[from];
      const { received, receivedHash } = tcp[to];
      if (received === 0 || received !== sent || receivedHash !== sentHash)
        faults.push(`TCP to the ${to}: ${received} bytes (${receivedHash}) of ${sent} sent (${sentHash})`);
    }
  return faults.map((fault) => `${where}: ${fault}`);
}
