import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestNet } from '../src/net/testnet.ts';
import type { GuestAgent } from '../src/qemu/guest-agent.ts';
import { ManagedProcess } from '../src/qemu/managed-process.ts';
import { Testbed } from '../src/qemu/testbed.ts';
import { probeKvm } from '../src/setup/accel.ts';
import { kernels } from '../src/setup/catalog.ts';
import { cacheRoot, chooseKernel, locateKernel } from '../src/setup/index.ts';
import { findPrivateQemu, findSystemQemu, type Qemu } from '../src/setup/qemu.ts';
import { Store } from '../src/setup/store.ts';

/** A NIC of the guest. */
export interface Contestant {
  readonly name: string;
  /** QEMU's device, or undefined for ours. */
  readonly device: string | undefined;
}

export const contestants: readonly Contestant[] = [
  { name: 'mlx5', device: undefined },
  { name: 'e1000e', device: 'e1000e' },
  { name: 'igb', device: 'igb' },
  { name: 'virtio-net', device: 'virtio-net-pci' },
];

/** A contestant in the guest: its interface there, and the host's address on its subnet. */
export interface Nic {
  readonly name: string;
  readonly link: string;
  readonly peer: string;
  readonly address: string;
}

const macOf = (index: number) => `52:54:00:be:00:0${index + 1}`;
const peerOf = (index: number) => `10.78.${index}.1`;
const guestOf = (index: number) => `10.78.${index}.2`;
const iperfPort = 5201;

/** One guest with all contestants on the same bridge, each on a subnet of its own, and the host's iperf3 there. */
export class NetWorld {
  readonly nics: readonly Nic[];
  readonly kernel: string;
  readonly accelerator: string;
  readonly testbed: Testbed;
  readonly #close: () => Promise<void>;

  private constructor(
    testbed: Testbed,
    nics: readonly Nic[],
    facts: { readonly kernel: string; readonly accelerator: string },
    close: () => Promise<void>,
  ) {
    this.testbed = testbed;
    this.nics = nics;
    this.kernel = facts.kernel;
    this.accelerator = facts.accelerator;
    this.#close = close;
  }

  get agent(): GuestAgent {
    return this.testbed.agent;
  }

  /** @param busyWait how long our device's server busy-waits, µs; undefined: as it likes */
  static async start(only: readonly string[], busyWait?: string): Promise<NetWorld> {
    const taking = contestants.filter(({ name }) => only.length === 0 || only.includes(name));
    const folder = mkdtempSync(join(tmpdir(), 'vc-bench-'));
    const closers: (() => Promise<void> | void)[] = [() => rmSync(folder, { recursive: true, force: true })];
    const close = async () => {
      for (const each of closers.splice(0).reverse()) await each();
    };
    try {
      const net = await TestNet.create({ taps: taking.length });
      closers.push(() => net.close());
      for (const index of taking.keys())
        await net.run('ip', 'address', 'add', `${peerOf(index)}/24`, 'dev', 'br0');
      const qemu = await findQemu();
      const kernel = await locateKernel();
      const accelerator = (await probeKvm(qemu, kernel)).works ? 'kvm' : 'tcg';
      const server = await ManagedProcess.spawn({
        name: 'iperf3',
        command: 'nsenter',
        args: [`--net=${net.namespace}`, '--', ...hostIperf(), '-s', '-p', String(iperfPort)],
        logPath: join(folder, 'iperf3.log'),
      });
      closers.push(async () => {
        await server.kill();
      });
      process.env.VFIO_COMPANION_QEMU = wrapQemu(folder, qemu, net.namespace);
      const testbed = await Testbed.start({
        devices: taking.flatMap(({ device }, index) =>
          device === undefined
            ? [
                {
                  id: `nic${index}`,
                  model: 'mlx5',
                  set: { mac: macOf(index) },
                  args: [
                    '--net',
                    net.tapSpec(index),
                    ...(busyWait === undefined ? [] : ['--busy-wait', busyWait]),
                  ],
                },
              ]
            : [],
        ),
        vm: {
          memoryMiB: 512,
          accel: accelerator,
          args: taking.flatMap(({ device }, index) =>
            device === undefined
              ? []
              : [
                  '-netdev',
                  `tap,id=net${index},ifname=tap${index},script=no,downscript=no,vhost=off`,
                  '-device',
                  `${device},netdev=net${index},mac=${macOf(index)}`,
                ],
          ),
        },
      });
      closers.push(() => testbed.close());
      await testbed.agent.waitReady();
      const nics: Nic[] = [];
      for (const [index, { name }] of taking.entries()) nics.push(await bringUp(testbed.agent, name, index));
      return new NetWorld(testbed, nics, { kernel: kernel.release, accelerator }, close);
    } catch (error) {
      await close();
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#close();
  }
}

async function findQemu(): Promise<Qemu> {
  const qemu = (await findSystemQemu()) ?? (await findPrivateQemu(new Store(cacheRoot())));
  if (qemu === undefined) throw new Error('there is no QEMU; run make setup');
  return qemu;
}

/** A QEMU that runs in the namespace, where the taps are; sockets with a path reach it from everywhere. */
function wrapQemu(folder: string, qemu: Qemu, namespace: string): string {
  const path = join(folder, 'qemu');
  const quoted = [qemu.command, ...qemu.args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
  writeFileSync(path, `#!/bin/sh\nexec nsenter --net=${namespace} -- ${quoted} "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

/** The guest's iperf3 runs on the host as well, with the libraries that came with it. */
function hostIperf(): string[] {
  const tree = new Store(cacheRoot()).path(`userland-${kernels[chooseKernel()].release}`);
  const libraries = join(tree, 'usr/lib/x86_64-linux-gnu');
  const program = join(tree, 'usr/bin/iperf3');
  if (!existsSync(program)) return ['iperf3'];
  return [join(libraries, 'ld-linux-x86-64.so.2'), '--library-path', libraries, program];
}

async function bringUp(agent: GuestAgent, name: string, index: number): Promise<Nic> {
  const find = `for l in /sys/class/net/*; do grep -q ${macOf(index)} $l/address && basename $l; done`;
  const wait = `for i in $(seq 100); do n=$(${find}); [ -n "$n" ] && break; sleep 0.1; done; echo $n`;
  const link = (await agent.check(wait)).trim();
  if (link === '') throw new Error(`the guest has no interface for ${name}`);
  await agent.check(`ip address add ${guestOf(index)}/24 dev ${link} && ip link set ${link} up`);
  const ping = `ping -c 1 -W 1 ${peerOf(index)} >/dev/null`;
  await agent.check(`for i in $(seq 20); do ${ping} && exit 0; done; exit 1`);
  return { name, link, peer: peerOf(index), address: guestOf(index) };
}
