/** A device server's migration socket, through the vfio-user client. What it answers is checked here. */
import { CompanionError, errno } from '../errors.ts';
import { AsyncVfioUserClient } from '../vfio-user/client/index.ts';
import type {
  BarrierResult,
  DevicePeer,
  DmaOperation,
  DmaResult,
  MarkResult,
  PeerBar,
  PeerInfo,
  PeerTimeouts,
  RestResult,
  SharedPages,
  SharedState,
} from './device-peer.ts';

const pageSize = 4096;
const configLength = 256;
/** A server takes 4096 in one request (docs/protocol-extensions.md). */
const dmaBatch = 4096;

type Fields = Readonly<Record<string, unknown>>;

function malformed(name: string, what: string): CompanionError {
  return new CompanionError('VC_PEER_ANSWER', `${name} answers nonsense: ${what}`, { errno: errno.EPROTO });
}

function fields(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

function whole(value: unknown): number {
  const number = typeof value === 'bigint' ? Number(value) : value;
  return typeof number === 'number' && Number.isFinite(number) && number >= 0 ? number : 0;
}

function parseBar(value: unknown): PeerBar {
  const bar = fields(value);
  const assigned = bar.address !== null && bar.address !== undefined;
  return {
    index: whole(bar.index),
    kind: String(bar.kind),
    size: whole(bar.size),
    address: assigned ? whole(bar.address) : null,
  };
}

function parseFormat(info: Fields): Pick<PeerInfo, 'stateFormat'> {
  const { loadsVersions, geometry, frameworkVersion } = info;
  if (!Array.isArray(loadsVersions) || geometry === undefined) return {};
  const entries = Object.entries(fields(geometry)).filter(
    (entry): entry is [string, number | string | boolean] =>
      ['number', 'string', 'boolean'].includes(typeof entry[1]),
  );
  return {
    stateFormat: {
      loadsVersions: loadsVersions.map(whole),
      geometry: Object.fromEntries(entries),
      frameworkVersion: whole(frameworkVersion),
    },
  };
}

function parseConfig(name: string, { config }: Fields): Buffer {
  if (config instanceof Uint8Array && config.length >= configLength) return Buffer.from(config);
  throw malformed(name, 'there is no configuration space');
}

function parseBarrier({ errno: code, msixTable }: Fields): BarrierResult {
  return {
    errno: whole(code),
    ...(msixTable instanceof Uint8Array && { msixTable: Buffer.from(msixTable) }),
  };
}

function parseInfo(name: string, value: unknown): PeerInfo {
  const info = fields(value);
  const msix = info.msix === undefined || info.msix === null ? undefined : fields(info.msix);
  const table = fields(msix?.table);
  return {
    // The first one did not tell.
    protocol: info.protocol === undefined ? 1 : whole(info.protocol),
    model: String(info.model),
    stateVersion: whole(info.stateVersion),
    ...parseFormat(info),
    config: parseConfig(name, info),
    bars: Array.isArray(info.bars) ? info.bars.map(parseBar) : [],
    msix:
      msix === undefined
        ? undefined
        : {
            vectors: whole(msix.vectors),
            table: { bar: whole(table.bar), offset: whole(table.offset) },
            enabled: msix.enabled === true,
          },
    clientConnected: info.clientConnected === true,
    held: info.held === true,
    state: whole(info.state),
    hasNet: info.net !== undefined && info.net !== null,
  };
}

function parseMark(value: unknown): MarkResult {
  const { pages, failed, firstErrno, microseconds, deferred, kept } = fields(value);
  return {
    pages: whole(pages),
    failed: whole(failed),
    firstErrno: whole(firstErrno),
    microseconds: whole(microseconds),
    deferred: deferred === true,
    kept: whole(kept),
  };
}

function parseResult(value: unknown): DmaResult {
  const { errno: code, bytes } = fields(value);
  return bytes instanceof Uint8Array ? { errno: whole(code), bytes } : { errno: whole(code) };
}

function parseResults(name: string, value: unknown, count: number): DmaResult[] {
  const { results } = fields(value);
  if (!Array.isArray(results) || results.length !== count) throw malformed(name, 'dma without its results');
  return results.map(parseResult);
}

/** Connects to the migration socket at `path`; default deadlines, ms, are those of `AsyncVfioUserClient`. */
export async function connectPeer(path: string, timeouts: Partial<PeerTimeouts> = {}): Promise<DevicePeer> {
  const client = await AsyncVfioUserClient.connect(path, {
    connectTimeoutMs: timeouts.connect,
    timeoutMs: timeouts.command,
  });
  if (!client.server.companion) {
    client.close();
    throw new CompanionError('VC_NO_COMPANION', `${path} is no migration socket of a vfio-companion server`, {
      errno: errno.EOPNOTSUPP,
      hint: 'give the path of --migration-socket, not of --socket',
    });
  }
  return new VfioUserPeer(path, client);
}

class VfioUserPeer implements DevicePeer {
  readonly name: string;
  readonly ended: Promise<Error | undefined>;
  readonly #client: AsyncVfioUserClient;
  #closing = false;

  constructor(name: string, client: AsyncVfioUserClient) {
    this.name = name;
    this.#client = client;
    this.ended = new Promise((resolve) => {
      client.onEnd = (error) => resolve(this.#closing ? undefined : error);
    });
  }

  get maxTransfer(): number {
    return this.#client.maxTransfer;
  }

  migrationFlags = (): Promise<number> => this.#client.migrationFlags();
  state = (): Promise<number> => this.#client.getState();
  setState = (state: number): Promise<void> => this.#client.setState(state);
  precopyInfo = (): Promise<{ initialBytes: number; dirtyBytes: number }> => this.#client.precopyInfo();
  dataSize = (): Promise<number> => this.#client.dataSize();
  read = (maxBytes: number): Promise<Buffer> => this.#client.readState(maxBytes);
  write = (bytes: Buffer): Promise<void> => this.#client.writeState(bytes);
  readonly shared: SharedState = {
    open: async (place) => void (await this.#client.companion('openStateWindow', { ...place })),
    read: async (offset, length) =>
      whole(fields(await this.#client.companion('readState', { offset, length })).length),
    write: async (offset, length) => void (await this.#client.companion('writeState', { offset, length })),
  };
  readonly pages: SharedPages = {
    open: async (place) => void (await this.#client.companion('openPageWindow', { ...place })),
    look: async (from, slot, limit) => {
      const { pages, next, microseconds } = fields(
        await this.#client.companion('lookAtPages', { from, slot, limit }),
      );
      return { pages: whole(pages), next: whole(next), microseconds: whole(microseconds) };
    },
    touch: async (slot, pages) => void (await this.#client.companion('touchPages', { slot, pages })),
    carry: async () => whole(fields(await this.#client.companion('carryPages')).pages),
    place: async (pages) => void (await this.#client.companion('placePages', { pages })),
  };
  stopLogging = (): Promise<void> => this.#client.stopDmaLogging();

  async startLogging(): Promise<void> {
    await this.#client.startDmaLogging(pageSize);
  }

  async info(): Promise<PeerInfo> {
    return parseInfo(this.name, await this.#client.companion('info'));
  }

  async hold(on: boolean): Promise<void> {
    await this.#client.companion('hold', { on });
  }

  async barrier(): Promise<BarrierResult> {
    return parseBarrier(fields(await this.#client.companion('barrier')));
  }

  async rest(how: { readonly park: boolean; readonly state?: number }): Promise<RestResult> {
    const answer = fields(await this.#client.companion('rest', how));
    const { addresses, microseconds } = answer;
    if (!Array.isArray(addresses)) throw malformed(this.name, 'a device at rest has no BARs');
    return {
      ...parseBarrier(answer),
      microseconds: whole(microseconds),
      config: parseConfig(this.name, answer),
      addresses: addresses.map((each: unknown) => (each === null ? null : whole(each))),
    };
  }

  async halt(): Promise<number> {
    return whole(fields(await this.#client.companion('halt')).dataSize);
  }

  async dma(operations: readonly DmaOperation[]): Promise<readonly DmaResult[]> {
    const batches: (readonly DmaOperation[])[] = [];
    for (let at = 0; at === 0 || at < operations.length; at += dmaBatch)
      batches.push(operations.slice(at, at + dmaBatch));
    const answers = await Promise.all(
      batches.map(async (batch) =>
        parseResults(this.name, await this.#client.companion('dma', { operations: batch }), batch.length),
      ),
    );
    return answers.flat();
  }

  async quiet(on: boolean): Promise<void> {
    await this.#client.companion('quiet', { on });
  }

  async markDirty(keep = 0): Promise<MarkResult> {
    return parseMark(await this.#client.companion('markDirty', { keep }));
  }

  async rehearseMarking(pages: number): Promise<MarkResult> {
    return parseMark(await this.#client.companion('rehearseMarking', { pages }));
  }

  async dirtyEstimate(): Promise<number> {
    return whole(fields(await this.#client.companion('dirtyEstimate')).pages);
  }

  async fireVectors(): Promise<void> {
    await this.#client.companion('fireVectors');
  }

  async park(on: boolean): Promise<void> {
    await this.#client.companion('park', { on });
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#client.close();
  }
}
