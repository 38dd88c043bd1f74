import type { GuestAgent } from '../src/qemu/guest-agent.ts';
import type { Nic } from './net-world.ts';

/** What is measured; `up` tells whether more is better. */
export const measures = {
  tcpOut: { title: 'TCP guest to host, Mbit/s', up: true },
  tcpIn: { title: 'TCP host to guest, Mbit/s', up: true },
  packetsOut: { title: '64-byte UDP guest to host, packets/s', up: true },
  packetsIn: { title: '64-byte UDP host to guest, packets/s', up: true },
  ping: { title: 'ping round trip, µs', up: false },
} as const;
export type Measure = keyof typeof measures;

/** With Ethernet, IP and UDP headers and the FCS it makes 64 bytes. */
const udpPayload = 18;
const pings = 50;
/** A tenth of that makes ping poll, which keeps the guest awake. */
const pingInterval = 0.03;

interface IperfEnd {
  readonly end: {
    readonly sum_received?: { readonly bits_per_second: number };
    readonly sum: { readonly packets: number; readonly lost_packets: number; readonly seconds: number };
  };
  readonly error?: string;
}

async function iperf(agent: GuestAgent, nic: Nic, seconds: number, args: string): Promise<IperfEnd> {
  const command = `iperf3 -J -c ${nic.peer} -B ${nic.address} -t ${seconds} ${args}`;
  const { stdout } = await agent.run(command, { timeoutMs: 60_000 });
  const result = JSON.parse(stdout) as IperfEnd;
  if (result.error !== undefined) throw new Error(`${nic.name}: ${result.error}`);
  return result;
}

async function tcp(agent: GuestAgent, nic: Nic, seconds: number, args: string): Promise<number> {
  const { end } = await iperf(agent, nic, seconds, args);
  return (end.sum_received?.bits_per_second ?? Number.NaN) / 1e6;
}

async function packets(agent: GuestAgent, nic: Nic, seconds: number, args: string): Promise<number> {
  const { end } = await iperf(agent, nic, seconds, `-u -l ${udpPayload} ${args}`);
  return (end.sum.packets - end.sum.lost_packets) / end.sum.seconds;
}

/** One value of each measure, through one NIC. */
export async function measure(
  agent: GuestAgent,
  nic: Nic,
  what: Measure,
  options: { readonly seconds: number; readonly offered: number },
): Promise<number> {
  switch (what) {
    case 'tcpOut':
      return await tcp(agent, nic, options.seconds, '');
    case 'tcpIn':
      return await tcp(agent, nic, options.seconds, '-R');
    case 'packetsOut':
      return await packets(agent, nic, options.seconds, '-b 0');
    case 'packetsIn':
      return await packets(agent, nic, options.seconds, `-R -b ${options.offered * udpPayload * 8}`);
    case 'ping': {
      const output = await agent.check(`ping -I ${nic.link} -i ${pingInterval} -c ${pings} ${nic.peer}`);
      return median([...output.matchAll(/time=([\d.]+) ms/g)].map((match) => 1000 * Number(match[1])));
    }
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
