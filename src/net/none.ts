import { BasePort, type PortContext } from './port.ts';

/** A cable whose other end is plugged in, and nobody there: sent frames are dropped and counted. */
export class NonePort extends BasePort {
  readonly kind = 'none';

  constructor(context: PortContext) {
    super(context);
    this.setPeer(true);
  }

  /** False always: the frame is dropped. */
  send(_parts: readonly Uint8Array[], length: number): boolean {
    return this.counted(false, length);
  }

  ready(): void {
    // Nothing ever arrives.
  }
}
