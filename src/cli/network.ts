import { errno, RequestError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Reactor } from '../loop/types.ts';
import { type HostPort, openPort } from '../net/index.ts';
import type { RuntimeExtension } from '../runtime/extension.ts';

export interface ServedNetworkOptions {
  readonly reactor: Reactor;
  readonly log: Logger;
  /** The device starts held: its ports wait in stand-by until it takes over. */
  readonly held: boolean;
  /** Capture file. */
  readonly pcap?: string | undefined;
}

/** A network that takes nothing for so long in a blackout loses what is left. */
const drainMs = 50;

/**
 * The network ports of a served device: opened for its model, moved along with it. An orchestrator parks them
 * before the device stops, and puts them in charge again when the guest stays; at a destination the model's own
 * announcement takes over.
 */
export class ServedNetwork implements RuntimeExtension {
  readonly #options: ServedNetworkOptions;
  readonly #ports: HostPort[] = [];

  constructor(options: ServedNetworkOptions) {
    this.#options = options;
  }

  readonly open = (spec: string): HostPort => {
    const { reactor, log, held, pcap } = this.#options;
    const port = openPort(spec, { reactor, log, pcap });
    if (held) port.standby();
    this.#ports.push(port);
    return port;
  };

  /** The model has no port. */
  get empty(): boolean {
    return this.#ports.length === 0;
  }

  stopped(): void {
    for (const port of this.#ports) port.drain(drainMs);
  }

  info(): Record<string, unknown> {
    if (this.empty) return {};
    return { net: this.#ports.map((port) => ({ kind: port.kind, linkUp: port.linkUp, stats: port.stats })) };
  }

  readonly operations: RuntimeExtension['operations'] = {
    park: ({ on }) => {
      if (typeof on !== 'boolean') throw new RequestError(errno.EINVAL, '"on" is true or false');
      return {
        parked: this.#ports.map((port) => {
          if (on) return port.park();
          port.activate();
          return false;
        }),
      };
    },
    netInfo: () => this.info(),
    setLink: ({ up }) => {
      if (typeof up !== 'boolean') throw new RequestError(errno.EINVAL, '"up" is true or false');
      if (this.empty) throw new RequestError(errno.EOPNOTSUPP, 'this device has no network port');
      for (const port of this.#ports) port.setLink(up);
      return {};
    },
  };
}
