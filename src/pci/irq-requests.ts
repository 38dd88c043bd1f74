/** DEVICE_SET_IRQS and DEVICE_GET_IRQ_INFO: the rules of vfio.h (`struct vfio_irq_set`, `struct vfio_irq_info`). */

import { errno, RequestError } from '../errors.ts';
import { type IrqInfo, type IrqSet, irqFlags } from '../transport/served-device.ts';
import { pciIrq } from '../vfio-user/constants.ts';

/** Interrupts per index, as irqInfo tells a client. */
export function describeIrqs(counts: readonly number[]): IrqInfo[] {
  return counts.map((count, index) => ({
    count,
    flags:
      index === pciIrq.intx
        ? irqFlags.eventfd | irqFlags.maskable | irqFlags.automasked
        : // Single vectors may be set at any time, so `noresize` is never claimed.
          irqFlags.eventfd,
  }));
}

/** The info of `index`; EINVAL for an index that PCI does not have. */
export function irqInfoOf(infos: readonly IrqInfo[], index: number): IrqInfo {
  const info = infos[index];
  if (info === undefined) throw refuse(`there is no interrupt index ${index}`);
  return info;
}

/**
 * Checks a request as kernel vfio does, before anything of it is done: index, range, what the action may
 * come with. `canWatch`: unmasking by eventfd is possible. Throws EINVAL.
 */
export function checkIrqSet(request: IrqSet, infos: readonly IrqInfo[], canWatch: boolean): void {
  const { index, start, count, action, data } = request;
  const info = irqInfoOf(infos, index);
  if (!Number.isInteger(start) || !Number.isInteger(count) || start < 0 || count < 0)
    throw refuse(`interrupts ${start} + ${count} are no range`);
  if (start >= info.count || start + count > info.count)
    throw refuse(`interrupt index ${index} has ${info.count}: no ${count} from ${start}`);
  if (count === 0 && (action !== 'trigger' || data.type !== 'none' || start !== 0))
    throw refuse(`a count of 0 only disables an index: trigger, no data, start 0`);
  if (data.type === 'bool' && data.values.length !== count)
    throw refuse(`${data.values.length} values for ${count} interrupts`);
  if (data.type === 'eventfd' && data.fds.length > count)
    throw refuse(`${data.fds.length} descriptors for ${count} interrupts`);
  if (action === 'trigger') return;
  if ((info.flags & irqFlags.maskable) === 0) throw refuse(`interrupt index ${index} cannot be masked`);
  if (data.type === 'eventfd' && (action === 'mask' || !canWatch))
    throw refuse(`${action} by eventfd is not supported`);
}

function refuse(message: string): RequestError {
  return new RequestError(errno.EINVAL, message);
}
