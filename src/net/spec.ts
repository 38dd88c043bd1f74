import { NetSpecError } from './errors.ts';
import type { StreamAddress } from './stream.ts';
import { MAX_NAME } from './switch/protocol.ts';

/** What `--net` says, taken apart. */
export type PortSpec =
  | { readonly kind: 'none' }
  | { readonly kind: 'switch'; readonly path: string; readonly identity?: string; readonly name?: string }
  | {
      readonly kind: 'stream';
      readonly address: StreamAddress;
      readonly server: boolean;
      readonly reconnectMs?: number;
    }
  | {
      readonly kind: 'tap';
      readonly name: string;
      readonly namespace?: string;
      /** The interface is in this VLAN: frames get its tag on the way in. */
      readonly vlan?: number;
    };

const forms = `it is one of
  none                                       nothing there
  switch:PATH[,id=NIC][,name=TEXT]           a port of the switch at PATH; id: the same NIC at both ends of a migration
  stream:unix:PATH[,server][,reconnect=MS]   QEMU's -netdev stream, passt
  stream:HOST:PORT[,server][,reconnect=MS]
  tap:NAME[@NETNS][,vlan=ID]                 a tap interface; NETNS: a name of ip netns, or a path; vlan: an access
                                             port, whose host sees untagged frames of that VLAN
a comma in a path or name is written twice`;

function refuse(spec: string, why: string): never {
  throw new NetSpecError(`"${spec}" is no network port: ${why}`, forms);
}

/**
 * Reads a port specification.
 *
 * @throws NetSpecError saying what is wrong and which forms there are
 */
export function parsePortSpec(spec: string): PortSpec {
  const [head = '', ...rest] = splitAtCommas(spec);
  const colon = head.indexOf(':');
  const kind = colon < 0 ? head : head.slice(0, colon);
  const target = colon < 0 ? '' : head.slice(colon + 1);
  const options = (...allowed: string[]) => parseOptions(spec, rest, allowed);
  switch (kind) {
    case 'none':
      options();
      if (colon >= 0) refuse(spec, 'none takes nothing');
      return { kind };
    case 'switch': {
      const { id, name } = options('id', 'name');
      if (target === '') refuse(spec, 'the path is missing');
      // The switch would hang up, again and again.
      for (const text of [id, name])
        if (text !== undefined && text.length > MAX_NAME)
          refuse(spec, `id and name have at most ${MAX_NAME} characters`);
      return {
        kind,
        path: target,
        ...(id === undefined ? {} : { identity: id }),
        ...(name === undefined ? {} : { name }),
      };
    }
    case 'stream': {
      const { server, reconnect } = options('server', 'reconnect');
      const reconnectMs = reconnect === undefined ? undefined : Number(reconnect);
      if (reconnectMs !== undefined && !(Number.isInteger(reconnectMs) && reconnectMs >= 0))
        refuse(spec, 'reconnect is milliseconds');
      return {
        kind,
        address: streamAddress(spec, target),
        server: server !== undefined && server !== 'off',
        ...(reconnectMs === undefined ? {} : { reconnectMs }),
      };
    }
    case 'tap': {
      const { vlan } = options('vlan');
      const at = target.indexOf('@');
      const name = at < 0 ? target : target.slice(0, at);
      if (name === '') refuse(spec, "the interface's name is missing");
      if (at === target.length - 1) refuse(spec, "the network namespace's name is missing");
      if (vlan !== undefined && !(/^[1-9]\d*$/.test(vlan) && Number(vlan) < 4095))
        refuse(spec, 'vlan is 1 to 4094');
      return {
        kind,
        name,
        ...(at < 0 ? {} : { namespace: target.slice(at + 1) }),
        ...(vlan === undefined ? {} : { vlan: Number(vlan) }),
      };
    }
    default:
      return refuse(spec, `"${kind}" is unknown`);
  }
}

/** A doubled comma is one that belongs to the text, as in QEMU's options. */
function splitAtCommas(spec: string): string[] {
  return spec
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','));
}

/** `text`, as a path or name, as it has to be written in a specification. */
export function specText(text: string): string {
  return text.replaceAll(',', ',,');
}

function parseOptions(spec: string, given: readonly string[], allowed: readonly string[]) {
  const found: Partial<Record<string, string>> = {};
  for (const option of given) {
    const equals = option.indexOf('=');
    const key = equals < 0 ? option : option.slice(0, equals);
    if (!allowed.includes(key)) refuse(spec, `it has no option "${key}"`);
    const value = equals < 0 ? 'on' : option.slice(equals + 1);
    if (value === '') refuse(spec, `${key} is empty`);
    found[key] = value;
  }
  return found;
}

function streamAddress(spec: string, target: string): StreamAddress {
  if (target.startsWith('unix:')) {
    const path = target.slice('unix:'.length);
    if (path === '') refuse(spec, 'the path is missing');
    return { type: 'unix', path };
  }
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(target);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || !(port > 0 && port <= 0xffff)) refuse(spec, 'HOST:PORT or unix:PATH is wanted');
  return { type: 'tcp', host, port };
}
