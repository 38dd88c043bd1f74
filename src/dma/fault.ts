import { CompanionError, errno } from '../errors.ts';

const reasons: Readonly<Record<number, string>> = {
  [errno.EFAULT]: 'not mapped',
  [errno.EACCES]: 'not permitted by its mapping',
  [errno.EAGAIN]: 'reachable by message only, which can’t be waited for inside a register read',
  [errno.ENOTCONN]: 'reachable by message only, and no client is connected',
};

/** A DMA access that can't be done; what a bus would answer with an abort. */
export class DmaFault extends CompanionError {
  readonly iova: number;
  readonly length: number;

  constructor(access: 'read' | 'write', iova: number, length: number, errnoValue: number) {
    const where = `DMA ${access} of ${length} bytes at 0x${iova.toString(16)}`;
    super('VC_DMA_FAULT', `${where}: ${reasons[errnoValue] ?? 'failed'}`, {
      errno: errnoValue,
      ...(errnoValue === errno.EAGAIN ? { hint: 'do the access from host.defer' } : {}),
    });
    this.iova = iova;
    this.length = length;
  }
}
