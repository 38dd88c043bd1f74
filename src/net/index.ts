import { CapturedPort } from './capture.ts';
import { NonePort } from './none.ts';
import { PcapWriter } from './pcap.ts';
import type { HostPort, PortContext } from './port.ts';
import { type PortSpec, parsePortSpec } from './spec.ts';
import { StreamPort } from './stream.ts';
import { SwitchPort } from './switch/client.ts';
import { TapPort } from './tap.ts';
import { VlanPort } from './vlan.ts';

export { parseMac } from './ethernet.ts';
export type { HostPort } from './port.ts';
export { specText } from './spec.ts';
export { defaultMaxPorts, Switch, type SwitchStats } from './switch/switch.ts';
export { askSwitch } from './switch/tool.ts';

export interface OpenPortOptions extends PortContext {
  /** Captures to this file, both directions. */
  readonly pcap?: string | undefined;
  /** Identity of the NIC for a switch, unless the specification names one. */
  readonly identity?: string;
}

function openBare(spec: PortSpec, options: OpenPortOptions): HostPort {
  const { reactor, log } = options;
  switch (spec.kind) {
    case 'none':
      return new NonePort({ reactor, log });
    case 'switch': {
      const identity = spec.identity ?? options.identity;
      return new SwitchPort({ reactor, log, ...spec, ...(identity === undefined ? {} : { identity }) });
    }
    case 'stream':
      return new StreamPort({ reactor, log, ...spec });
    case 'tap': {
      const port = new TapPort({ reactor, log, ...spec });
      return spec.vlan === undefined ? port : new VlanPort(port, spec.vlan);
    }
  }
}

/**
 * Opens a network port from what a user wrote after `--net`.
 *
 * @throws NetError for a specification that makes no sense, or when what it names isn't there
 */
export function openPort(spec: string, options: OpenPortOptions): HostPort {
  const parsed = parsePortSpec(spec);
  if (options.pcap === undefined) return openBare(parsed, options);
  const writer = new PcapWriter(options.pcap);
  try {
    return new CapturedPort(openBare(parsed, options), writer, options);
  } catch (error) {
    writer.close();
    throw error;
  }
}
