import type { Logger } from '../log.ts';
import type { Reactor } from '../loop/types.ts';
import type { DmaChannelOptions } from './dma/port.ts';
import type { ServedDevice } from './served-device.ts';

/** What the servers of all transports have in common. */
export interface ServerOptions {
  readonly reactor: Reactor;
  readonly device: ServedDevice;
  /** Where to listen. Undefined: nowhere, clients come by `adopt()`. */
  readonly path?: string;
  readonly log: Logger;
  /** DMA messages in flight; default 64. */
  readonly dmaWindow?: number | undefined;
  /** Single-byte writes in flight; default 256. */
  readonly dmaBatchWindow?: number | undefined;
  /** How long a DMA reply may take; default 5000 ms, as long as QEMU itself waits for one. */
  readonly dmaTimeoutMs?: number | undefined;
  /** How long a client may take to send VERSION; default 10,000 ms. */
  readonly negotiationTimeoutMs?: number | undefined;
  /** Called while a DMA reply is waited for: lets a test run its client on the same thread. */
  readonly whileWaiting?: (() => void) | undefined;
  /** A client has gone, after `device.detach()`. */
  readonly onClientGone?: () => void;
}

/** What a connection takes from the options of its server, defaults filled in. */
export interface ConnectionOptions {
  readonly reactor: Reactor;
  readonly device: ServedDevice;
  readonly dma: Pick<DmaChannelOptions, 'window' | 'batchWindow' | 'timeoutMs'>;
  readonly negotiationTimeoutMs: number;
  /** Called over and over while a DMA reply is waited for, instead of sleeping; for a client on this thread. */
  readonly whileWaiting: (() => void) | undefined;
}

export function connectionOptions(options: ServerOptions): ConnectionOptions {
  const { reactor, device, whileWaiting } = options;
  return {
    reactor,
    device,
    dma: {
      window: options.dmaWindow ?? 64,
      batchWindow: options.dmaBatchWindow ?? 256,
      timeoutMs: options.dmaTimeoutMs ?? 5000,
    },
    negotiationTimeoutMs: options.negotiationTimeoutMs ?? 10_000,
    whileWaiting,
  };
}
