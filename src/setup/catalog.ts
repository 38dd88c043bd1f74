/**
 * What set-up takes from Debian, as data: releases, package sets, guest kernels and the modules that the
 * guest image carries.
 */

/** A Debian release and the suites of it that are read. */
export interface Release {
  /** Suites on the machine's main Debian mirror. */
  readonly archive: readonly string[];
  /** Suites on the machine's security mirror, if it has one. */
  readonly security: readonly string[];
}

export const releases = {
  bookworm: { archive: ['bookworm', 'bookworm-updates'], security: ['bookworm-security'] },
  trixie: {
    archive: ['trixie', 'trixie-updates', 'trixie-backports'],
    security: ['trixie-security'],
  },
} as const satisfies Record<string, Release>;

export type ReleaseName = keyof typeof releases;

/** A named group of packages that is resolved, downloaded and unpacked as one. */
export interface PackageSet {
  readonly release: ReleaseName;
  /** Suite to prefer (`apt-get -t`), where it is not the release's own. */
  readonly target?: string;
  readonly packages: readonly string[];
  /** Of the packages that the resolver adds, those that are wanted; all of them if absent. */
  readonly keep?: RegExp;
}

/**
 * Dependencies that only maintainer scripts need. Nothing here is installed, only unpacked, so no script
 * ever runs.
 */
export const scriptOnlyPackages =
  /^(adduser|base-passwd|debconf|dpkg|init-system-helpers|libaudit.*|libdebconfclient0|libfile-find-rule-perl|libgdbm.*|libnumber-compare-perl|libpam.*|libperl.*|libsemanage.*|libtext-glob-perl|login\.defs|passwd|perl.*|tar|usrmerge)$/;

/** Oldest QEMU with a vfio-user client (`vfio-user-pci`). */
export const minimumQemu = { major: 10, minor: 1 } as const;

export const qemuPackages: PackageSet = {
  release: 'trixie',
  target: 'trixie-backports',
  packages: ['qemu-system-x86'],
};

/**
 * Guest userland. The shell is dash because busybox's own prefers its applets to the real programs.
 * `xz-utils`, `zstd` and `kmod` serve the image build, on the host; `kmod` the guest too.
 */
const userland = [
  'busybox-static',
  'dash',
  'ethtool',
  'iperf3',
  'iproute2',
  'iputils-ping',
  'kmod',
  'pciutils',
  'xz-utils',
  'zstd',
] as const;

export const guestPackages: Record<ReleaseName, PackageSet> = {
  bookworm: { release: 'bookworm', packages: userland },
  trixie: { release: 'trixie', packages: userland },
};

const kernelOnly = /^linux-(image|binary|modules|base)-\d/;

/** Guest kernels by the name that `KERNEL=` takes. The userland comes from the same release. */
export const kernels = {
  bookworm: { release: 'bookworm', packages: ['linux-image-amd64'], keep: kernelOnly },
  trixie: { release: 'trixie', packages: ['linux-image-amd64'], keep: kernelOnly },
  backports: {
    release: 'trixie',
    target: 'trixie-backports',
    packages: ['linux-image-amd64'],
    keep: kernelOnly,
  },
} as const satisfies Record<string, PackageSet>;

export type KernelName = keyof typeof kernels;

export const defaultKernel: KernelName = 'bookworm';

/** Whether `name` is a guest kernel that set-up knows. */
export function isKernelName(name: string): name is KernelName {
  return Object.hasOwn(kernels, name);
}

/** Programs of the guest userland, each with the libraries that it needs. */
export const guestPrograms = [
  'bin/dash',
  'bin/kmod',
  'bin/ping',
  'bin/ip',
  'sbin/bridge',
  'sbin/devlink',
  'sbin/tc',
  'bin/ss',
  'sbin/ethtool',
  'bin/iperf3',
  'bin/lspci',
] as const;

/** Modules that the image carries, by module name; their dependencies come along. */
export const guestModules = [
  'mlx5_core',
  '8021q',
  'bonding',
  'dummy',
  'veth',
  'bridge',
  'tls',
  'e1000',
  'e1000e',
  'igb',
  'igbvf',
  'nvme',
  'virtio_blk',
  'virtio_console',
  'virtio_net',
  'virtio_pci',
  'virtio_rng',
  'vfio_pci',
  'vfio_iommu_type1',
  'uio_pci_generic',
  'sch_netem',
  'sch_ingress',
  'cls_flower',
  'act_mirred',
] as const;
