/** Where a device sits: in which slot, behind which bridges, and on which bus the guest finds it. */

import { listAt, numberAt, textAt } from '../answers.ts';
import { QmpError, refusal } from '../errors.ts';
import type { PciAddress } from '../pci-address.ts';
import type { QmpSession } from '../qmp.ts';

/** More bridges one behind the other than there are buses. */
const deepest = 256;

/** Slot and function of a device: the property "addr" is its devfn, as a number. */
async function slotOf(qmp: QmpSession, path: string): Promise<{ device: number; function: number }> {
  const addr = await qmp.execute('qom-get', { path, property: 'addr' });
  const devfn = Number(addr);
  if (!Number.isInteger(devfn) || devfn < 0 || devfn > 0xff)
    throw refusal('VC_DEVICES', `can't tell the slot of device ${path} ("${String(addr)}")`);
  return { device: devfn >> 3, function: devfn & 7 };
}

/**
 * The slot of device `id`, and those of the bridges that it is behind, as "0.0 behind 2.0": what must be the same at both sides. Bridges have
 * no numbers at a QEMU that waits for its guest, and may be called anything.
 */
export async function placeOf(qmp: QmpSession, id: string): Promise<string> {
  const slots: string[] = [];
  let path: string | undefined = `/machine/peripheral/${id}`;
  while (path !== undefined && slots.length < deepest) {
    const slot = await slotOf(qmp, path);
    slots.push(`${slot.device}.${slot.function}`);
    path = await bridgeAbove(qmp, path);
  }
  return slots.join(' behind ');
}

/** The user-made bridge whose bus a device sits on: the bus is a child of it. Undefined: the machine's own. */
async function bridgeAbove(qmp: QmpSession, path: string): Promise<string | undefined> {
  const bus = await qmp.execute('qom-get', { path, property: 'parent_bus' });
  const above = typeof bus === 'string' ? bus.slice(0, bus.lastIndexOf('/')) : '';
  if (!/^\/machine\/peripheral(-anon)?\//.test(above)) return undefined;
  try {
    // A root bus of its own (pxb) is no PCI device's.
    await slotOf(qmp, above);
    return above;
  } catch (error) {
    if (error instanceof QmpError) return undefined;
    throw error;
  }
}

/**
 * Where device `id` sits now, bus number as the guest has assigned it. A device behind a bridge that has no
 * number yet is unreachable for the guest, too.
 */
export async function addressOf(qmp: QmpSession, id: string): Promise<PciAddress> {
  const slot = await slotOf(qmp, `/machine/peripheral/${id}`);
  const found = await pciDevice(qmp, id);
  return { bus: found === undefined ? -1 : numberAt(found, 'bus'), ...slot };
}

/** What `query-pci` tells of device `id`; undefined: the guest can't reach it. */
export async function pciDevice(qmp: QmpSession, id: string): Promise<unknown> {
  const search = (devices: readonly unknown[]): unknown => {
    for (const device of devices) {
      if (textAt(device, 'qdev_id') === id) return device;
      const below = search(listAt(device, 'pci_bridge', 'devices'));
      if (below !== undefined) return below;
    }
    return undefined;
  };
  return search(listAt(await qmp.execute('query-pci')).flatMap((bus) => listAt(bus, 'devices')));
}
