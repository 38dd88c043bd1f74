/**
 * A guest that boots, reboots or has unbound its driver has Bus Master off, and QEMU refuses all DMA of the
 * device then. It is switched on through port 0xCF8 for a moment in which the guest stands still.
 */
import type { ConfigPorts } from '../config-ports.ts';
import { commandOf, commandOffset, frozen, neededBits } from './registers.ts';
import type { DeviceRun } from './run.ts';

type Borrowing = Pick<DeviceRun, 'id' | 'address' | 'frozen'>;

/**
 * Lets `use` run while the devices reach what they have to. Devices whose bus has no number are left out: nobody reaches those.
 *
 * @param ports of the QEMU; `back` the same for giving back, which must also work when the rest is given up
 * @param note takes what gives the registers back, before they are borrowed: a rollback that begins in the midst waits for the same
 */
export async function borrowBusMaster(
  { ports, back }: { readonly ports: ConfigPorts; readonly back: ConfigPorts },
  devices: readonly Borrowing[],
  note: (giveBack: () => Promise<void>) => void,
  use: () => Promise<unknown>,
): Promise<void> {
  const cf8 = await ports.save();
  const restore = async (): Promise<void> => {
    for (const device of devices) {
      if (device.address.bus >= 0)
        await back.write(device.address, commandOffset, 2, commandOf(frozen(device).config));
    }
    await back.restore(cf8);
  };
  let given: Promise<void> | undefined;
  const giveBack = (): Promise<void> => {
    given ??= restore();
    return given;
  };
  note(giveBack);
  for (const device of devices) {
    if (device.address.bus < 0) continue;
    const value = commandOf(frozen(device).config) | neededBits(device);
    await ports.write(device.address, commandOffset, 2, value);
  }
  await use();
  await giveBack();
}
