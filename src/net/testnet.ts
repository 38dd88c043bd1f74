import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { execa, execaSync } from 'execa';
import { NetError } from './errors.ts';

/** Whether a Linux peer (namespace, bridge, taps) can be made here. */
export type TapAbility =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly reason: string;
      /** What to put in front of a command so that it can: a user namespace of its own. */
      readonly wrapper?: readonly string[];
    };

let known: TapAbility | undefined;

/** `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` (linux/capability.h) in our user namespace. */
const CAPABILITIES = [12n, 21n];

/** Where other users than root often don't look, and `bridge` lies. */
function withSystemPrograms(): { PATH: string } {
  return { PATH: `${process.env.PATH ?? '/usr/bin:/bin'}:/usr/sbin:/sbin` };
}

/** Looks once whether taps and network namespaces can be made by this process; tries it for real. */
export function canUseTaps(): TapAbility {
  known ??= probe();
  return known;
}

function probe(): TapAbility {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    return { ok: false, reason: '/dev/net/tun is missing or not ours to open' };
  }
  const effective = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  const mask = BigInt(`0x${effective ?? '0'}`);
  const attempt = 'ip link add name vcprobe type bridge && ip tuntap add dev vcprobe1 mode tap';
  const run = (args: readonly string[]) =>
    execaSync('unshare', [...args, 'sh', '-c', attempt], {
      reject: false,
      timeout: 5000,
      env: withSystemPrograms(),
    });
  if (CAPABILITIES.every((bit) => (mask & (1n << bit)) !== 0n)) {
    const result = run(['-n', '--']);
    return result.exitCode === 0
      ? { ok: true }
      : {
          ok: false,
          reason: `no bridge or tap in a namespace: ${String(result.stderr).trim() || result.message}`,
        };
  }
  const wrapper = ['unshare', '-Urn', '--'];
  const result = run(['-Urn', '--']);
  if (result.exitCode === 0) return { ok: false, reason: 'not root; a user namespace would do', wrapper };
  const said = String(result.stderr).trim() || result.message;
  return { ok: false, reason: `not root, and no bridge or tap in a user namespace: ${said}` };
}

export interface TestNetOptions {
  /** Number of taps on the bridge, named tap0, tap1, … */
  readonly taps: number;
  /** Address of the bridge with prefix length, which is the peer's address. Default 10.77.0.1/24. */
  readonly address?: string;
  readonly mtu?: number;
}

/**
 * A real Linux network stack to talk to: a network namespace with a bridge, taps on it, and an address. The
 * namespace has no name and is held by one child process that ends when this process ends, however it ends,
 * and everything in it goes with it.
 */
export class TestNet {
  /** Path of the namespace, as `tap:NAME@PATH` takes it. */
  readonly namespace: string;
  readonly address: string;
  readonly #holder: ChildProcess;

  private constructor(holder: ChildProcess, pid: number, address: string) {
    this.#holder = holder;
    this.namespace = `/proc/${pid}/ns/net`;
    this.address = address.replace(/\/.*/, '');
  }

  /** @throws NetError when it can't be made here; ask `canUseTaps` first */
  static async create(options: TestNetOptions): Promise<TestNet> {
    const able = canUseTaps();
    if (!able.ok) throw new NetError(`no test network: ${able.reason}`, wrapperHint(able.wrapper));
    const address = options.address ?? '10.77.0.1/24';
    // cat ends when its input does, that is, with this process; unshare replaces itself by it.
    const holder = spawn('unshare', ['-n', '--', 'sh', '-c', 'echo ready; exec cat'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await firstOutput(holder);
    if (holder.pid === undefined) throw new NetError('no test network: the namespace did not start');
    const net = new TestNet(holder, holder.pid, address);
    try {
      await net.#build(options, address);
    } catch (error) {
      await net.close();
      throw error;
    }
    return net;
  }

  /** What `openPort` takes for tap `index`. */
  tapSpec(index: number): string {
    return `tap:tap${index}@${this.namespace}`;
  }

  /** Command and arguments that run a program inside. */
  command(program: string, ...args: string[]): [string, string[]] {
    return ['nsenter', [`--net=${this.namespace}`, '--', program, ...args]];
  }

  /** Runs a program inside; returns its output. @throws NetError with what it said on standard error */
  async run(program: string, ...args: string[]): Promise<string> {
    const result = await execa(...this.command(program, ...args), {
      reject: false,
      env: withSystemPrograms(),
    });
    if (result.exitCode !== 0)
      throw new NetError(`${program} ${args.join(' ')}: ${result.stderr || result.message}`);
    return result.stdout;
  }

  /** Ends the namespace, with all that is in it. */
  async close(): Promise<void> {
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return;
    const ended = new Promise<void>((resolve) => this.#holder.once('exit', () => resolve()));
    this.#holder.kill('SIGKILL');
    await ended;
  }

  async #build(options: TestNetOptions, address: string): Promise<void> {
    const mtu = options.mtu ?? 1500;
    const taps = Array.from({ length: options.taps }, (_, index) => `tap${index}`);
    const lines = [
      'link set lo up',
      `link add name br0 mtu ${mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
      ...taps.flatMap((tap) => [
        `tuntap add dev ${tap} mode tap`,
        `link set ${tap} mtu ${mtu} master br0 up`,
      ]),
      `address add ${address} dev br0`,
      'link set br0 up',
    ];
    for (const line of lines) await this.run('ip', ...line.split(' '));
  }
}

function wrapperHint(wrapper: readonly string[] | undefined): string {
  return wrapper === undefined ? 'run as root' : `run as root, or put "${wrapper.join(' ')}" in front`;
}

function firstOutput(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('error', (error) => reject(new NetError('no namespace', undefined, error)));
    child.once('exit', (code) => reject(new NetError(`no namespace: unshare ended with ${code}`)));
  });
}
