/** A VM as we describe it, and the QEMU command line that makes it. Pure: nothing here touches the machine. */

export interface VfioUserDevice {
  /** qdev id; `migrate` names devices by it. */
  readonly id: string;
  /** The device server's socket. */
  readonly socket: string;
  /** Bus to sit on (the id of a root port); default the machine's root bus. */
  readonly bus?: string | undefined;
  /** Slot[.function] in hex, as QEMU's `addr`; must be the same on both sides of a migration. */
  readonly addr?: string | undefined;
  /** Further properties of `vfio-user-pci`. */
  readonly properties?: Readonly<Record<string, unknown>>;
}

export interface VmDescription {
  /** Default q35. */
  readonly machine?: 'q35' | 'pc' | (string & {});
  /** Further machine properties, as "kernel-irqchip=split". */
  readonly machineOptions?: readonly string[];
  /** Mebibytes; default 256. */
  readonly memoryMiB?: number;
  /** What holds guest RAM. Default memfd. With `private` no device server can map it: DMA goes by message only. */
  readonly memoryBackend?: 'memfd' | 'file' | 'private';
  /** Default 1. */
  readonly cpus?: number;
  /** Default auto: KVM when it really runs a guest. */
  readonly accel?: 'auto' | 'tcg' | 'kvm';
  /** Default "guest": the kernel and image that set-up made. "none": the firmware finds nothing to boot. */
  readonly boot?: 'guest' | 'none' | { readonly kernel: string; readonly initrd?: string };
  /** Added to the kernel's command line. */
  readonly append?: string;
  /** Ids of PCIe root ports to add (q35). */
  readonly rootPorts?: readonly string[];
  /** Devices that must come before all others, as "intel-iommu,caching-mode=on". */
  readonly platformDevices?: readonly string[];
  readonly devices?: readonly VfioUserDevice[];
  /** Wait for a migration (`-incoming defer`); implies that the vCPUs are not started. */
  readonly incoming?: 'defer';
  /** Do not start the vCPUs (`-S`). */
  readonly paused?: boolean;
  /** Further QEMU arguments, at the end. */
  readonly args?: readonly string[];
}

/** What a description leaves open, decided. */
export interface ResolvedVm {
  readonly accel: 'tcg' | 'kvm';
  readonly kernel: string | undefined;
  readonly initrd: string | undefined;
  readonly qmpPath: string;
  readonly migrationQmpPath: string;
  readonly consolePath: string;
  readonly agentPath: string;
  readonly memoryPath: string;
}

/** QEMU splits option strings at commas; a doubled comma is one. */
function optionValue(text: string): string {
  return text.replaceAll(',', ',,');
}

/** The `-device` argument of one vfio-user device, in JSON: the socket is a structured property. */
export function deviceArgument(device: VfioUserDevice): string {
  return JSON.stringify({
    driver: 'vfio-user-pci',
    id: device.id,
    socket: { type: 'unix', path: device.socket },
    bus: device.bus,
    addr: device.addr,
    ...device.properties,
  });
}

/**
 * For a guest kernel on emulated processors, where it takes a quarter off the boot: no self-tests of cryptography, and no
 * watchdog of the time stamp counter, which takes a busy host for a broken clock.
 */
const emulatedKernelWords = ['cryptomgr.notests', 'tsc=reliable'] as const;

/** QEMU's arguments for `description`. */
export function vmArguments(description: VmDescription, resolved: ResolvedVm): string[] {
  const memory = `${description.memoryMiB ?? 256}M`;
  const backend = {
    memfd: `memory-backend-memfd,id=ram,size=${memory},share=on`,
    file: `memory-backend-file,id=ram,size=${memory},share=on,mem-path=${optionValue(resolved.memoryPath)}`,
    private: `memory-backend-ram,id=ram,size=${memory},share=off`,
  }[description.memoryBackend ?? 'memfd'];
  const machine = [description.machine ?? 'q35', 'memory-backend=ram', ...(description.machineOptions ?? [])];
  const monitor = (path: string): string => `unix:${optionValue(path)},server=on,wait=off`;
  const args = [
    '-nodefaults',
    '-no-user-config',
    ...['-display', 'none', '-vga', 'none'],
    ...['-machine', machine.join(','), '-accel', resolved.accel],
    ...['-cpu', resolved.accel === 'kvm' ? 'host' : 'max'],
    ...['-smp', String(description.cpus ?? 1), '-m', memory, '-object', backend],
    ...['-qmp', monitor(resolved.qmpPath), '-qmp', monitor(resolved.migrationQmpPath)],
    // In its short form, "-serial file:…", a doubled comma would be two.
    ...[
      '-chardev',
      `file,id=console,path=${optionValue(resolved.consolePath)}`,
      '-serial',
      'chardev:console',
    ],
    ...['-chardev', `socket,id=agent,path=${optionValue(resolved.agentPath)},server=on,wait=off`],
    ...['-serial', 'chardev:agent'],
  ];
  if (resolved.kernel !== undefined) {
    args.push('-kernel', resolved.kernel);
    const own = ['console=ttyS0', 'panic=-1', ...(resolved.accel === 'kvm' ? [] : emulatedKernelWords)];
    args.push('-append', [...own, description.append ?? ''].join(' ').trim());
  }
  if (resolved.initrd !== undefined) args.push('-initrd', resolved.initrd);
  for (const device of description.platformDevices ?? []) args.push('-device', device);
  description.rootPorts?.forEach((id, index) => {
    args.push('-device', `pcie-root-port,id=${id},bus=pcie.0,chassis=${index + 1},slot=${index + 1}`);
  });
  for (const device of description.devices ?? []) args.push('-device', deviceArgument(device));
  if (description.incoming !== undefined) args.push('-incoming', description.incoming, '-S');
  else if (description.paused === true) args.push('-S');
  args.push(...(description.args ?? []));
  return args;
}
