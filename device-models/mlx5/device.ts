import { randomFillSync } from 'node:crypto';
import { type Device, type DeviceHost, errno, RequestError, type ResetKind } from '../../src/device/index.ts';
import type { NetPort } from '../../src/net/types.ts';
import { CommandInterface } from './command-interface.ts';
import { executor } from './commands/command.ts';
import { commands } from './commands/index.ts';
import { Mlx5Core } from './core.ts';
import { Bar0 } from './init-segment.ts';
import { Mlx5Migration } from './migration/index.ts';
import { parseMac, randomMac } from './vport.ts';

/** Everything that an instance is made with. */
export interface Mlx5Options {
  /** MSI-X vectors; one channel fewer, and at most 8 channels are of use. */
  readonly vectors: number;
  /** `52:54:00:…`; empty: a random one. */
  readonly mac: string;
}

/** One mlx5 virtual function. */
export class Mlx5Device implements Device {
  readonly bars: { readonly 0: Bar0 };
  readonly migration: Mlx5Migration;
  readonly core: Mlx5Core;
  readonly commandInterface: CommandInterface;
  /** For an orchestrator or an operator, by name. */
  readonly operations = {
    injectSendError: () => {
      this.injectSendError();
      return {};
    },
  };
  readonly #host: DeviceHost;

  constructor(host: DeviceHost, options: Mlx5Options, port: NetPort) {
    this.#host = host;
    const mac = options.mac === '' ? randomMac(randomFillSync) : parseMac(options.mac);
    if (mac === undefined) {
      throw new RequestError(errno.EINVAL, `mac=${options.mac} is no unicast MAC address`, {
        hint: 'write it as 52:54:00:12:34:56',
      });
    }
    this.core = new Mlx5Core(host, { vectors: options.vectors, mac, port });
    this.commandInterface = new CommandInterface(host, this.core.eqs, executor(this.core, commands), () =>
      this.core.disable(),
    );
    this.bars = { 0: new Bar0(this.core, this.commandInterface) };
    this.migration = new Mlx5Migration(this.core, this.commandInterface);
  }

  /** Link up or down by an operator, as if the cable were pulled; the guest gets the event. */
  setLink(up: boolean): void {
    this.core.setLink(up);
  }

  /** The next frame that the guest sends ends in an error completion: to see its driver recover the queue. */
  injectSendError(): void {
    this.core.sqs.failNext = true;
  }

  /** A function level reset keeps what belongs to the port: its counters and its link. */
  reset(kind: ResetKind): void {
    this.core.disable();
    this.core.vport.reset();
    this.commandInterface.reset();
    if (kind === 'flr') this.core.counters.clearVport();
    else this.core.counters.clearAll();
    this.core.link.reported = this.core.link.up;
  }

  /** Everything runs to completion in its own callback: nothing is under way between two of them. */
  quiesce(): void {
    this.core.clock.freeze();
  }

  /**
   * Deferred what needs DMA: a client that drives the migration itself waits for the answer to its request, and can't be
   * asked for memory until it has it.
   */
  resume(): void {
    this.core.clock.thaw();
    this.core.vport.settle();
    this.#host.defer(() => {
      if (this.#host.mayInitiate) this.#wake();
    });
  }

  #wake(): void {
    this.commandInterface.wake();
    this.core.wake();
  }

  /**
   * Bus mastering may have come back. Deferred: a configuration write is served even while the device waits for
   * DMA by message, in the middle of whatever it does.
   */
  commandChanged(): void {
    this.#host.defer(() => {
      if (this.#host.pci.busMaster && this.#host.mayInitiate) this.#wake();
    });
  }

  close(): void {
    this.core.close();
  }
}
