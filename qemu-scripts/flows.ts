/** Single flows between a guest and its peer that notice what is lost, changed or exchanged on the way. */
import { readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { ManagedProcess, Testbed } from '../src/qemu/index.ts';
import { locateKernel } from '../src/setup/index.ts';
import type { Net, Network } from './network.ts';

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

/** `traffic` at one end of a flow. */
interface FlowEnd<T> {
  report(): Promise<T>;
  /** Asks it to end; it does when it has received what is under way. */
  terminate(): Promise<void>;
  ended(): Promise<void>;
}

class GuestEnd<T> implements FlowEnd<T> {
  readonly #bed: Testbed;
  readonly #file: string;

  private constructor(bed: Testbed, file: string) {
    this.#bed = bed;
    this.#file = file;
  }

  static async start<T>(bed: Testbed, name: string, args: readonly string[]): Promise<GuestEnd<T>> {
    const file = `/run/${name}`;
    await bed.agent.check(
      `rm -f ${file}; traffic ${args.join(' ')} --report ${file} >${file}.out 2>&1 & echo $! >${file}.pid`,
    );
    return new GuestEnd(bed, file);
  }

  async report(): Promise<T> {
    const text = await this.#bed.agent.check(
      `until [ -s ${this.#file} ]; do sleep 0.05; done; cat ${this.#file}`,
    );
    return JSON.parse(text) as T;
  }

  async terminate(): Promise<void> {
    await this.#bed.agent.check(`kill $(cat ${this.#file}.pid) 2>/dev/null; true`);
  }

  async ended(): Promise<void> {
    await this.#bed.agent.check(`while kill -0 $(cat ${this.#file}.pid) 2>/dev/null; do sleep 0.05; done`, {
      timeoutMs: 60_000,
    });
  }
}

class PeerEnd<T> implements FlowEnd<T> {
  readonly #process: ManagedProcess;
  readonly #file: string;

  private constructor(process: ManagedProcess, file: string) {
    this.#process = process;
    this.#file = file;
  }

  /** The guest's own program is static: it runs on the host as well. */
  static async start<T>(network: Network, name: string, args: readonly string[]): Promise<PeerEnd<T>> {
    const program = join(dirname((await locateKernel()).initrd), 'programs/traffic');
    const file = network.path(`${name}.json`);
    rmSync(file, { force: true });
    return new PeerEnd(await network.spawn(name, program, ...args, '--report', file), file);
  }

  async report(): Promise<T> {
    return JSON.parse(readFileSync(this.#file, 'utf8')) as T;
  }

  async terminate(): Promise<void> {
    this.#process.signal('SIGTERM');
  }

  async ended(): Promise<void> {
    await this.#process.exited;
  }
}

export interface UdpOptions {
  /** Datagrams a second, each way. */
  readonly rate: number;
  /** Bytes of each. Default 64. */
  readonly size?: number;
  /** So many the guest hands to its kernel at once. Default 1. */
  readonly segments?: number;
}

/** One flow between guest and peer, run by `traffic` at both ends. */
export class Flow<T extends { done: boolean; error: string }> {
  readonly name: string;
  readonly #guest: FlowEnd<T>;
  /** None where the guest talks to an echo: both directions are in its own report. */
  readonly #peer: FlowEnd<T> | undefined;

  private constructor(name: string, guest: FlowEnd<T>, peer: FlowEnd<T> | undefined) {
    this.name = name;
    this.#guest = guest;
    this.#peer = peer;
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
    const guest = await listen(bed, name, port, rate);
    const args = ['tcp', 'connect', net.guest, String(port), '--rate', String(rate)];
    return new Flow(name, guest, await PeerEnd.start<TcpReport>(network, name, args));
  }

  /** The same with another guest in the place of the peer. */
  static async tcpBetween(
    bed: Testbed,
    peer: Testbed,
    net: Net,
    port: number,
    rate: number,
  ): Promise<Flow<TcpReport>> {
    const name = `tcp${port}`;
    const guest = await listen(bed, name, port, rate);
    const args = ['tcp', 'connect', net.guest, String(port), '--rate', String(rate)];
    return new Flow(name, guest, await GuestEnd.start<TcpReport>(peer, name, args));
  }

  /**
   * Numbered datagrams both ways. Without a Linux peer the guest's datagrams come back from an echo, so that both
   * directions are in the guest's report.
   */
  static async udp(
    bed: Testbed,
    network: Network,
    net: Net,
    port: number,
    { rate, size = 64, segments = 1 }: UdpOptions,
  ): Promise<Flow<UdpReport>> {
    const name = `udp${port}`;
    const options = ['--rate', String(rate), '--size', String(size)];
    const linux = network.peer === 'linux';
    const to = linux ? port : echoPort;
    const peer = linux
      ? await PeerEnd.start<UdpReport>(network, name, [
          'udp',
          String(port),
          net.guest,
          String(port),
          ...options,
        ])
      : undefined;
    const own = ['udp', String(port), net.peer, String(to), ...options, '--segments', String(segments)];
    return new Flow(name, await GuestEnd.start<UdpReport>(bed, name, own), peer);
  }

  async look(): Promise<Ends<T>> {
    const guest = await this.#guest.report();
    return { guest, peer: (await this.#peer?.report()) ?? guest };
  }

  /** Ends the flow in order and returns the final reports. @throws Error when an end reports a fault */
  async end(): Promise<Ends<T>> {
    // Both are asked before either is waited for: a TCP end goes when the other one has ended, too. The guest first, which hears it late on a
    // busy machine: what it sends until then is still listened for.
    await this.#guest.terminate();
    await this.#peer?.terminate();
    await this.#guest.ended();
    await this.#peer?.ended();
    const ends = await this.look();
    for (const [where, report] of Object.entries(ends)) {
      if (!report.done || report.error !== '')
        throw new Error(`${this.name}: at the ${where}: ${report.error || 'it did not end'}`);
    }
    return ends;
  }
}

async function listen(bed: Testbed, name: string, port: number, rate: number): Promise<GuestEnd<TcpReport>> {
  const args = ['tcp', 'listen', String(port), '--rate', String(rate)];
  const end = await GuestEnd.start<TcpReport>(bed, name, args);
  await bed.agent.check(`until ss -ltn | grep -q ':${port} '; do sleep 0.05; done`);
  return end;
}

/** Port of the test peer's UDP echo (RFC 862). */
const echoPort = 7;

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
