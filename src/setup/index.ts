import { type Accelerator, probeKvm } from './accel.ts';
import { defaultKernel, isKernelName, type KernelName, kernels } from './catalog.ts';
import { SetupError } from './errors.ts';
import { findImage, type GuestKernel } from './image.ts';
import { cacheRoot, setupCommand } from './paths.ts';
import { findPrivateQemu, findSystemQemu, type Qemu } from './qemu.ts';
import { Store } from './store.ts';

export { cacheRoot, checkoutRoot } from './paths.ts';

let located: Promise<Qemu> | undefined;

/** The QEMU to run. Changes nothing on disk; fails with the way out if set-up has not been run. */
export async function locateQemu(): Promise<Qemu> {
  located ??= (async () => {
    const qemu = (await findSystemQemu()) ?? (await findPrivateQemu(new Store(cacheRoot())));
    if (qemu === undefined)
      throw new SetupError('there is no QEMU >= 10.1 with vfio-user-pci', `run ${setupCommand()}`);
    return qemu;
  })();
  return await located;
}

/** The name of the guest kernel to use: `name`, else `$KERNEL`, else the default. */
export function chooseKernel(name: string | undefined = process.env.KERNEL): KernelName {
  if (name === undefined || name === '') return defaultKernel;
  if (isKernelName(name)) return name;
  throw new SetupError(`no guest kernel is called ${name}`, `use one of ${Object.keys(kernels).join(', ')}`);
}

/** A guest kernel and its image. Changes nothing on disk; fails with the way out if set-up has not been run. */
export async function locateKernel(name?: KernelName): Promise<GuestKernel> {
  const wanted = chooseKernel(name);
  const found = await findImage(new Store(cacheRoot()), wanted);
  if (found !== undefined) return found;
  throw new SetupError(
    `there is no guest kernel ${wanted}, or no image for it`,
    `run ${setupCommand(wanted)}`,
  );
}

/**
 * The accelerator to start guests with: `$VFIO_COMPANION_ACCEL` (`kvm` or `tcg`), else KVM if it really runs
 * a guest, else TCG.
 */
export async function probeAccelerator(): Promise<Accelerator> {
  const named = process.env.VFIO_COMPANION_ACCEL;
  if (named === 'kvm' || named === 'tcg') return named;
  if (named !== undefined && named !== '') {
    throw new SetupError(`VFIO_COMPANION_ACCEL=${named} is no accelerator`, 'use kvm or tcg, or unset it');
  }
  return (await probeKvm(await locateQemu(), await anyKernel())).works ? 'kvm' : 'tcg';
}

/** Any kernel that is there: whichever runs, the accelerator does. */
async function anyKernel(): Promise<GuestKernel> {
  const store = new Store(cacheRoot());
  for (const name of Object.keys(kernels).filter(isKernelName)) {
    const found = await findImage(store, name);
    if (found !== undefined) return found;
  }
  return await locateKernel();
}
