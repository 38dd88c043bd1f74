/** Two QEMUs and the device servers of a migration, played by objects: what is asked of them is written down. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { engineIsQuiet } from '../../../src/engine.ts';
import { errno, RequestError } from '../../../src/errors.ts';
import { migrationState } from '../../../src/migration/state.ts';
import type {
  BarrierResult,
  DevicePeer,
  DmaOperation,
  DmaResult,
  MarkResult,
  PeerInfo,
  RestResult,
  SharedPages,
} from '../../../src/qemu/device-peer.ts';
import type { MigrateOptions } from '../../../src/qemu/switchover/options.ts';
import { type Answer, FakeQmpServer } from './fake-qmp-server.ts';

export type PeerMethod =
  | Exclude<keyof DevicePeer, 'name' | 'maxTransfer' | 'ended' | 'close'>
  | `pages.${keyof SharedPages}`;

export const tableAddress = 0xfe00_0000;
const ecam = 0xb000_0000;

const msixTableBytes = 64;
const objects = '/objects/';
const notMapped = {
  error: { class: 'GenericError', desc: 'Mapped-ram only available for non-TLS' },
} as const;

/** Of a QEMU that nobody has set anything of. */
export const usualParameters = {
  'downtime-limit': 300,
  'max-bandwidth': 1 << 27,
  'multifd-compression': 'none',
  'tls-creds': '',
} as const;

/** Whether `address` is one of the ECAM window. */
export function inEcam(address: number): boolean {
  return address >= ecam && address < tableAddress;
}

function configured(): Buffer {
  const config = Buffer.alloc(256);
  config.writeUInt32LE(0x11e1_1b36, 0);
  config.writeUInt16LE(0x0006, 4);
  config.writeUInt16LE(0x0010, 6);
  config.writeUInt32LE(tableAddress, 0x10);
  config.writeUInt8(0x40, 0x34);
  config.set([0x11, 0x00, 0x03, 0x80], 0x40);
  return config;
}

/** As after power-on. */
function fresh(): Buffer {
  const config = configured();
  config.writeUInt16LE(0, 4);
  config.writeUInt32LE(0, 0x10);
  config.writeUInt16LE(3, 0x42);
  return config;
}

/** One device server. */
export class FakePeer implements DevicePeer {
  readonly name: string;
  readonly maxTransfer = 65_536;
  readonly ended: Promise<Error | undefined>;
  /** Makes `ended` settle, as when the server dies. */
  die: (error: Error) => void = () => undefined;
  /** Answers this call with an error; once the number of earlier calls of it has been reached. */
  failing: { readonly method: PeerMethod; readonly after: number } | undefined;
  /** False: nothing answers in the ECAM window, as before firmware has run. */
  ecamThere = true;
  current: number = migrationState.RUNNING;
  /** What its device changes all the time, bytes. */
  dirtyBytes = 0;
  /** What is written by DMA changes its registers and its MSI-X table. */
  takesWrites = false;
  protocol = 2;
  stateVersion = 1;
  /** Pages that its device has written. */
  dirtyPages = 10;
  /** Answers with this number of carried pages, whatever it has kept. */
  carries: number | undefined;
  /** Pages of those that QEMU does not take note of. */
  markFails = 0;
  /** What QEMU answers to a write by DMA; 0: done. */
  dmaErrno: (address: number) => number = () => 0;
  /** What comes of a read by DMA; 0: it is done. */
  readErrno = 0;
  /** Its registers as QEMU shows them in the ECAM window, and its MSI-X table as QEMU holds it. */
  readonly shown = configured();
  readonly table = Buffer.alloc(msixTableBytes);
  /** Time that it takes to come to rest, ms. */
  restMs = 0;
  /** Its model has ports that can be parked. */
  hasNet = true;
  held = false;
  /** It has a QEMU. */
  connected = true;
  /** State that is still to come when it stops, bytes. */
  leftBytes = 100;
  #kept = 0;
  readonly #journal: string[];
  readonly #counts = new Map<string, number>();
  /** What its guest has written. */
  readonly config: Buffer;
  #unread = 3;

  constructor(name: string, journal: string[], config: Buffer) {
    this.name = name;
    this.#journal = journal;
    this.config = config;
    this.ended = new Promise((resolve) => {
      this.die = resolve;
    });
  }

  async #call(method: PeerMethod, detail = ''): Promise<void> {
    this.#note(method, detail);
  }

  #note(method: PeerMethod, detail = ''): void {
    const count = this.#counts.get(method) ?? 0;
    this.#counts.set(method, count + 1);
    this.#journal.push(`${this.name}.${method}${detail === '' ? '' : ` ${detail}`}`);
    if (this.failing?.method === method && count >= this.failing.after)
      throw new RequestError(errno.EIO, `${this.name} refuses ${method}`);
  }

  async migrationFlags(): Promise<number> {
    await this.#call('migrationFlags');
    return 7;
  }
  async state(): Promise<number> {
    await this.#call('state');
    return this.current;
  }
  async setState(state: number): Promise<void> {
    this.#enter(state);
  }
  #enter(state: number): void {
    this.#note('setState', String(state));
    this.current = state;
  }
  async precopyInfo(): Promise<{ initialBytes: number; dirtyBytes: number }> {
    await this.#call('precopyInfo');
    return { initialBytes: this.#unread > 1 ? 100 : 0, dirtyBytes: this.dirtyBytes };
  }
  async dataSize(): Promise<number> {
    await this.#call('dataSize');
    return this.leftBytes;
  }
  async read(): Promise<Buffer> {
    await this.#call('read');
    const last = this.current === migrationState.STOP_COPY ? 0 : 1;
    if (this.#unread <= last) return Buffer.alloc(0);
    this.#unread -= 1;
    return Buffer.alloc(100, this.#unread);
  }
  /** Has less state than it should. */
  endEarly(): void {
    this.#unread -= 1;
  }
  async write(): Promise<void> {
    await this.#call('write');
  }
  async startLogging(): Promise<void> {
    await this.#call('startLogging');
  }
  async stopLogging(): Promise<void> {
    await this.#call('stopLogging');
  }
  async info(): Promise<PeerInfo> {
    await this.#call('info');
    return {
      protocol: this.protocol,
      model: 'fake',
      stateVersion: this.stateVersion,
      config: Buffer.from(this.config),
      bars: [{ index: 0, kind: 'memory32', size: 4096, address: this.config.readUInt32LE(0x10) || null }],
      msix: { vectors: 4, table: { bar: 0, offset: 0 }, enabled: true },
      clientConnected: this.connected,
      held: this.held,
      state: this.current,
      hasNet: this.hasNet,
    };
  }
  async hold(on: boolean): Promise<void> {
    await this.#call('hold', on ? 'on' : 'off');
    this.held = on;
  }
  async barrier(): Promise<BarrierResult> {
    return this.#barrier();
  }
  #barrier(): BarrierResult {
    this.#note('barrier');
    const reachable = this.#busMaster && this.config.readUInt32LE(0x10) !== 0;
    return { errno: 0, ...(reachable && { msixTable: Buffer.from(this.table) }) };
  }
  /** One request, although several steps: nothing comes in between. */
  async rest({ park, state }: { park: boolean; state?: number }): Promise<RestResult> {
    if (this.restMs > 0) await delay(this.restMs);
    this.#note('rest');
    if (park) this.#note('park', 'on');
    const barrier = this.#barrier();
    this.#note('hold', 'on');
    this.held = true;
    if (state !== undefined) this.#enter(state);
    const { config } = this;
    const addresses = [config.readUInt32LE(0x10) || null];
    return { ...barrier, microseconds: 1, config: Buffer.from(config), addresses };
  }
  async halt(): Promise<number> {
    this.#note('halt');
    this.#enter(migrationState.STOP_COPY);
    return this.leftBytes;
  }
  async dma(operations: readonly DmaOperation[]): Promise<readonly DmaResult[]> {
    await this.#call('dma', operations.map((each) => ('read' in each ? 'read' : 'write')).join(','));
    return operations.map((each) => {
      if (!('read' in each)) {
        const code = this.dmaErrno(each.write);
        if (code === 0 && this.takesWrites) this.#take(each.write, each.bytes);
        return { errno: code };
      }
      if (this.readErrno !== 0) return { errno: this.readErrno };
      const bytes = Buffer.alloc(each.length);
      if (this.ecamThere && inEcam(each.read)) this.shown.copy(bytes);
      if (each.read === tableAddress) this.table.copy(bytes);
      return { errno: 0, bytes };
    });
  }
  #take(address: number, bytes: Uint8Array): void {
    if (inEcam(address)) this.config.set(bytes, address % this.config.length);
    else if (address >= tableAddress) this.table.set(bytes, address - tableAddress);
  }
  /** As the server: with Bus Master off the table is out of reach and nothing is marked. */
  get #busMaster(): boolean {
    return (this.config.readUInt16LE(4) & 4) !== 0;
  }
  async quiet(on: boolean): Promise<void> {
    await this.#call('quiet', on ? 'on' : 'off');
  }
  async markDirty(keep = 0): Promise<MarkResult> {
    await this.#call('markDirty', `keep ${keep}`);
    const kept = Math.min(keep, this.dirtyPages);
    this.#kept = kept;
    const deferred = !this.#busMaster && kept < this.dirtyPages;
    const pages = deferred ? 0 : this.dirtyPages - kept;
    const failed = Math.min(this.markFails, pages);
    const firstErrno = failed === 0 ? 0 : errno.EFAULT;
    return { pages, failed, firstErrno, microseconds: 20, deferred, kept: deferred ? 0 : kept };
  }
  async dirtyEstimate(): Promise<number> {
    await this.#call('dirtyEstimate');
    return this.dirtyPages;
  }
  /** As if all dirty pages lay beside each other, from address 0 on. */
  readonly pages: SharedPages = {
    open: ({ slots }) => this.#call('pages.open', `slots ${slots}`),
    look: async (from, slot, limit) => {
      await this.#call('pages.look', `slot ${slot}`);
      const pages = Math.min(limit, this.dirtyPages - from / 4096);
      return { pages, next: from + pages * 4096, microseconds: pages };
    },
    touch: (slot) => this.#call('pages.touch', `slot ${slot}`),
    carry: async () => {
      await this.#call('pages.carry');
      return this.carries ?? this.#kept;
    },
    place: (pages) => this.#call('pages.place', String(pages)),
  };
  async fireVectors(): Promise<void> {
    await this.#call('fireVectors');
  }
  async park(on: boolean): Promise<void> {
    await this.#call('park', on ? 'on' : 'off');
  }
  async close(): Promise<void> {}
}

export interface FakeDevice {
  readonly id: string;
  readonly devfn: number;
  readonly source: FakePeer;
  readonly destination: FakePeer;
  /** The slot of the bridge that it is behind, at each side, which is the number of its bus, too; default: none. */
  behind?: { source: number; destination: number };
}

/** The path of a way by a file. */
function fileOf({ channels }: Record<string, unknown>): string | undefined {
  const [channel] = Array.isArray(channels) ? channels : [];
  return channel?.addr?.filename;
}

/** Everything that takes part, and the journal of what was asked, in order. */
export class FakeWorld {
  readonly journal: string[] = [];
  readonly folder = mkdtempSync(join(tmpdir(), 'vc-world-'));
  readonly source = new FakePeer('source', this.journal, configured());
  readonly destination: FakePeer;
  /** The first is the one above. */
  readonly devices: FakeDevice[];
  /** Commands that a QEMU refuses, as "source migrate". */
  readonly refused = new Set<string>();
  parameters: Record<string, number | string> = { ...usualParameters };
  /** What is set otherwise at the destination. */
  readonly destinationParameters: Record<string, string> = {};
  /** Endpoints of TLS credentials, by their ids. */
  readonly credentials: Record<'source' | 'destination', Record<string, string>> = {
    source: {},
    destination: {},
  };
  capabilities = ['pause-before-switchover', 'events', 'xbzrle'].map((capability) => ({
    capability,
    state: false,
  }));
  sourceStatus = 'running';
  /** The source's QEMU has never been told to migrate. */
  neverMigrated = false;
  destinationStatus = 'inmigrate';
  /** Type of each machine, and its processors. */
  machines = { source: 'pc-q35-11.1-machine', destination: 'pc-q35-11.1-machine' };
  readonly processors = { source: 1, destination: 1 };
  /** What the destination tells of its own migration before that has begun. */
  incomingStatus = 'none';
  /** How often the source has gone through RAM. */
  rounds = 1;
  /** From `migrate` until the source stops for its last pass, ms. */
  precopyMs = 15;
  /** From `migrate-continue` until the destination has loaded, ms. */
  loadMs = 2;
  /** What the destination has to tell of its start comes with the answer to the next command only. */
  silentEvents = false;
  /** Why the source can't migrate. */
  readonly blocked: string[] = [];
  /** For RAM to or from a file, ms; and whether that fails. */
  fileMs = 2;
  fileFails = false;
  /** The source tells no events of its migration. */
  eventless = false;
  /** The last pass of RAM waits for a way that takes nothing, and QEMU's main loop for that. */
  stuck = false;
  /** The source's connection for RAM is neither made nor refused. */
  unconnected = false;
  /** What would be cancelled comes to its end just before, as one that pauses nowhere. */
  endsFirst = false;
  /** How long before it tells of its last pass the source has stopped, ms. */
  stopsAheadMs = 0;
  /** By how much the clock of each QEMU is ahead of ours, ms. */
  readonly clockMs = { source: 0, destination: 0 };
  /** The machines have an ECAM window. */
  hasEcam = true;
  /** A vIOMMU that both VMs have. */
  iommu: string | undefined;
  /** Commands that a QEMU does not answer, as "source migrate". */
  readonly silent = new Set<string>();
  /** Those that it carries out all the same. */
  readonly unanswered = new Set<string>();
  #news: (() => void) | undefined;
  #autostart = true;
  #migration = 'none';
  /** What the source goes back to when its migration is cancelled. */
  #statusBefore = 'running';
  #servers: { source: FakeQmpServer; destination: FakeQmpServer } | undefined;

  constructor() {
    this.destination = new FakePeer('destination', this.journal, fresh());
    const { source, destination } = this;
    this.devices = [{ id: 'dev0', devfn: 0x28, source, destination }];
  }

  async start(): Promise<void> {
    const source = await FakeQmpServer.start(join(this.folder, 'source'), (command, args) =>
      this.#answer('source', command, args),
    );
    const destination = await FakeQmpServer.start(join(this.folder, 'destination'), (command, args) =>
      this.#answer('destination', command, args),
    );
    this.#servers = { source, destination };
  }

  /** Gives the VM another device. */
  addDevice(): FakeDevice {
    const before = this.devices.length;
    const source = new FakePeer(`source${before + 1}`, this.journal, configured());
    const destination = new FakePeer(`destination${before + 1}`, this.journal, fresh());
    const device = { id: `dev${before}`, devfn: 0x28 + 8 * before, source, destination };
    this.devices.push(device);
    return device;
  }

  readonly #selected = { source: 0, destination: 0 };

  options(): MigrateOptions {
    return {
      source: { qmp: join(this.folder, 'source') },
      destination: { qmp: join(this.folder, 'destination') },
      uri: 'unix:/nowhere',
      devices: this.devices.map(({ id, source, destination }) => ({
        id,
        source: source.name,
        destination: destination.name,
      })),
      downtimeLimitMs: 5000,
      connectDevice: async (path) => {
        const peers = this.devices.flatMap(({ source, destination }) => [source, destination]);
        return peers.find(({ name }) => name === path) ?? this.destination;
      },
      // Room for a machine with much else to do: what is about deadlines has its own.
      timeouts: { command: 20_000, final: 20_000, rollback: 20_000, connect: 20_000 },
    };
  }

  /** Kills a QEMU: its monitor closes and stays closed. */
  async kill(side: 'source' | 'destination'): Promise<void> {
    await this.#servers?.[side].stop();
  }

  /** The guest ends by itself, and its QEMU with it, while that is asked how its migration goes. */
  async endGuest(reason: string): Promise<void> {
    this.#event('source', 'SHUTDOWN', { guest: reason.startsWith('guest-'), reason });
    // QEMU takes its time to end. Whoever asks a second time has read the first answer, and the event before it.
    const asked = (): number => this.journal.filter((line) => line === 'source QEMU: query-migrate').length;
    for (const until = asked() + 2; asked() < until; ) await delay(1);
    await this.kill('source');
  }

  /** Somebody pauses the guest at the source, or has it go on. */
  setRunning(on: boolean): void {
    this.#statusBefore = on ? 'running' : 'paused';
    this.sourceStatus = this.#statusBefore;
    this.#event('source', on ? 'RESUME' : 'STOP');
  }

  /** The guest suspends itself (S3), and is not woken up. */
  suspend(): void {
    this.#statusBefore = 'suspended';
    this.sourceStatus = this.#statusBefore;
    this.#event('source', 'SUSPEND');
  }

  /** The source stops for its last pass, if it has not yet. */
  switchOver(): void {
    if (this.#migration !== 'active') return;
    this.#migration = 'pre-switchover';
    this.sourceStatus = 'finish-migrate';
    if (this.#statusBefore === 'running') this.#event('source', 'STOP', {}, this.stopsAheadMs);
    this.#event('source', 'MIGRATION', { status: 'pre-switchover' });
  }

  /** A QEMU carries out nothing for so long, ms: it is stopped, or what comes to it is held up on its way. */
  stall(side: 'source' | 'destination', ms: number): void {
    this.#servers?.[side].hold(true);
    setTimeout(() => this.#servers?.[side].release(), ms);
  }

  /** A QEMU that lives can't be reached any more. */
  cutOff(side: 'source' | 'destination'): void {
    this.#servers?.[side].turnAway();
  }

  async stop(): Promise<void> {
    await Promise.all([this.kill('source'), this.kill('destination')]).catch(() => undefined);
    rmSync(this.folder, { recursive: true, force: true });
    // Other tests run in this process.
    if (engineIsQuiet()) throw new Error('the migration has not ended: it keeps this process quiet');
  }

  #event(side: 'source' | 'destination', name: string, data: object = {}, agoMs = 0): void {
    if (this.eventless && side === 'source' && name === 'MIGRATION') return;
    const now = Date.now() + this.clockMs[side] - agoMs;
    this.#servers?.[side].event(name, data, Math.floor(now / 1000), (now % 1000) * 1000);
  }

  #answer(side: 'source' | 'destination', command: string, args: Record<string, unknown>): Answer {
    const line = command === 'human-monitor-command' ? String(args['command-line']) : command;
    this.journal.push(`${side} QEMU: ${line}`);
    if (side === 'destination') {
      this.#news?.();
      this.#news = undefined;
    }
    if (this.silent.has(`${side} ${command}`)) return undefined;
    if (this.refused.has(`${side} ${command}`))
      return { error: { class: 'GenericError', desc: `${side} refuses ${command}` } };
    switch (command) {
      case 'human-monitor-command':
        this.#port(side, line);
        return { return: this.#hmp(side, line) };
      case 'query-status': {
        const status = side === 'source' ? this.sourceStatus : this.destinationStatus;
        return { return: { status, running: status === 'running' } };
      }
      case 'query-migrate':
        if (this.neverMigrated) return { return: {} };
        if (side === 'destination') return { return: { status: this.incomingStatus } };
        return {
          return: {
            status: this.#migration,
            ...(this.blocked.length > 0 && { 'blocked-reasons': this.blocked }),
            'expected-downtime': 1,
            ram: { 'dirty-sync-count': this.rounds, remaining: 1000, total: 2000, transferred: 1000 },
          },
        };
      case 'qom-list':
        return {
          return:
            args.path === '/machine/peripheral'
              ? this.devices.map(({ id }) => ({ name: id, type: 'child<vfio-user-pci>' }))
              : this.iommu === undefined
                ? []
                : [{ name: 'device[0]', type: `child<${this.iommu}>` }],
        };
      case 'qom-get': {
        const value = this.#property(side, String(args.path), String(args.property));
        if (value === undefined)
          return { error: { class: 'DeviceNotFound', desc: `Device '${String(args.path)}' not found` } };
        return { return: value };
      }
      case 'query-pci':
        return { return: [{ bus: 0, devices: this.devices.map((device) => this.#pciDevice(side, device)) }] };
      case 'query-cpus-fast':
        return {
          return: Array.from({ length: this.processors[side] }, (_, index) => ({ 'cpu-index': index })),
        };
      case 'query-memory-size-summary':
        return { return: { 'base-memory': 1 << 28 } };
      case 'query-migrate-capabilities':
        return { return: this.capabilities };
      case 'query-migrate-parameters':
        return { return: { ...this.parameters, ...(side === 'destination' && this.destinationParameters) } };
      case 'migrate-set-parameters':
        if (side === 'source' && this.#unmappable(this.capabilities, { ...this.parameters, ...args }))
          return notMapped;
        if (side === 'source') Object.assign(this.parameters, args);
        return { return: {} };
      case 'migrate-set-capabilities':
        if (side === 'source' && this.#unmappable(args.capabilities as FakeWorld['capabilities']))
          return notMapped;
        if (side === 'source') this.#setCapabilities(args.capabilities as FakeWorld['capabilities']);
        return { return: {} };
      default:
        this.#act(side, command, args);
        return this.unanswered.has(`${side} ${command}`) ? undefined : { return: {} };
    }
  }

  #property(side: 'source' | 'destination', path: string, property: string): unknown {
    if (path === '/machine') return this.machines[side];
    if (path.startsWith(objects)) return this.credentials[side][path.slice(objects.length)];
    const name = path.slice('/machine/peripheral/'.length);
    const bridge = /^port(\d+)$/.exec(name)?.[1];
    const device = this.devices.find(({ id }) => id === name);
    if (property === 'addr') return bridge === undefined ? device?.devfn : 8 * Number(bridge);
    const behind = device?.behind?.[side];
    return behind === undefined ? '/machine/q35/pcie.0' : `/machine/peripheral/port${behind}/bus`;
  }

  #pciDevice(side: 'source' | 'destination', device: FakeDevice): object {
    const { id, devfn, behind, [side]: peer } = device;
    const address = peer.config.readUInt32LE(0x10) || -1;
    const shown = {
      qdev_id: id,
      bus: behind?.[side] ?? 0,
      slot: devfn >> 3,
      function: devfn & 7,
      regions: [{ bar: 0, type: 'memory', size: 4096, address }],
    };
    if (behind === undefined) return shown;
    // Bridges have no numbers at a QEMU that waits for its guest.
    const numbered = side === 'source' || this.destinationStatus !== 'inmigrate';
    return { qdev_id: `port${behind[side]}`, bus: 0, pci_bridge: numbered ? { devices: [shown] } : {} };
  }

  /** What QEMU does not combine. */
  #unmappable(
    capabilities: FakeWorld['capabilities'],
    parameters: Record<string, unknown> = this.parameters,
  ): boolean {
    const { 'tls-creds': tls = '', 'multifd-compression': compression = 'none' } = parameters;
    const mapped = capabilities.some(({ capability, state }) => capability === 'mapped-ram' && state);
    return mapped && (tls !== '' || compression !== 'none');
  }

  #setCapabilities(wanted: FakeWorld['capabilities']): void {
    for (const { capability, state } of wanted) {
      const known = this.capabilities.find((each) => each.capability === capability);
      if (known !== undefined) known.state = state;
    }
  }

  /** A write through 0xCF8 reaches the registers of a device, as QEMU passes it on; at the source only the command register is written. */
  #port(side: 'source' | 'destination', line: string): void {
    const [, letter, port, value] = /^o \/(\w) 0x(cf[8-f]) (0x[0-9a-f]+)$/.exec(line) ?? [];
    if (port === 'cf8') this.#selected[side] = Number(value) & 0xff_ffff;
    else if (port !== undefined) {
      const selected = this.#selected[side];
      const device = this.#deviceAt(side, selected >> 8);
      const offset = (selected & 0xfc) + Number.parseInt(port, 16) - 0xcfc;
      const size = { b: 1, h: 2 }[letter ?? ''] ?? 4;
      device?.[side].config.writeUIntLE(Number(value), offset, size);
    }
  }

  #hmp(side: 'source' | 'destination', line: string): string {
    if (line === 'info mtree')
      return this.hasEcam ? `    00000000b0000000-00000000bfffffff (prio 0, i/o): pcie-mmcfg-mmio\r\n` : '';
    if (line === 'i /w 0xcfc') {
      const selected = this.#selected[side];
      const { config } = this.#deviceAt(side, selected >> 8)?.[side] ?? this.destination;
      return `portl[0x0cfc] = 0x${config.readUInt32LE(selected & 0xfc).toString(16)}\r\n`;
    }
    return line.startsWith('i ') ? 'portl[0x0cf8] = 0x80000094\r\n' : '';
  }

  #deviceAt(side: 'source' | 'destination', where: number): FakeDevice | undefined {
    return this.devices.find(({ devfn, behind }) => (behind?.[side] ?? 0) * 0x100 + devfn === where);
  }

  /** RAM goes to a file, or comes from one. */
  #toOrFromFile(side: 'source' | 'destination', command: string, path: string): void {
    if (side === 'source') this.#statusBefore = this.sourceStatus;
    this.#migration = 'active';
    const pauses = ({ capability, state }: { capability: string; state: boolean }): boolean =>
      capability === 'pause-before-switchover' && state;
    if (side === 'source' && this.capabilities.some(pauses)) return;
    setTimeout(() => {
      // Called off meanwhile.
      if (this.#migration !== 'active') return;
      const status = this.fileFails ? 'failed' : 'completed';
      if (command === 'migrate') writeFileSync(path, 'the RAM');
      this.#migration = status;
      if (side === 'source' && !this.fileFails) this.sourceStatus = 'postmigrate';
      if (side === 'destination') this.destinationStatus = 'paused';
      this.journal.push(`${side} ${command} ${status}`);
      this.#event(side, 'MIGRATION', { status });
    }, this.fileMs);
  }

  /** What a QEMU does by itself after a command. */
  #act(side: 'source' | 'destination', command: string, args: Record<string, unknown>): void {
    const file = fileOf(args);
    if (file !== undefined) this.#toOrFromFile(side, command, file);
    else if (side === 'source' && this.unconnected && /^(migrate|yank)/.test(command)) {
      this.#migration = command === 'migrate' ? 'setup' : 'cancelling';
    } else if (side === 'source' && command === 'migrate') {
      this.#migration = 'active';
      this.#event('source', 'MIGRATION', { status: 'active' });
      this.#statusBefore = this.sourceStatus;
      setTimeout(() => this.switchOver(), this.precopyMs).unref();
    } else if (side === 'source' && command === 'migrate-continue') {
      this.#event('source', 'MIGRATION', { status: 'device' });
      if (this.stuck) this.#servers?.source.hold();
      else
        setTimeout(() => {
          if (this.#migration !== 'pre-switchover') return;
          this.#migration = 'completed';
          this.sourceStatus = 'postmigrate';
          this.#event('source', 'MIGRATION', { status: 'completed' });
          this.journal.push('destination loaded');
          const starts = this.#autostart && this.#statusBefore === 'running';
          this.destinationStatus = starts ? 'running' : 'paused';
          const news = (): void => {
            if (starts) this.#event('destination', 'RESUME');
            this.#event('destination', 'MIGRATION', { status: 'completed' });
          };
          if (this.silentEvents) this.#news = news;
          else news();
        }, this.loadMs);
    } else if (side === 'source' && command === 'yank') {
      // Whoever waits for `migrate-continue` does not notice it.
      if (!this.stuck) return;
      this.#migration = 'failed';
      this.#event('source', 'MIGRATION', { status: 'failed' });
      this.sourceStatus = this.#statusBefore;
      if (this.sourceStatus === 'running') this.#event('source', 'RESUME');
      this.#servers?.source.release();
    } else if (side === 'source' && command === 'migrate_cancel' && this.endsFirst) {
      this.#migration = 'completed';
      this.sourceStatus = 'postmigrate';
    } else if (side === 'source' && command === 'migrate_cancel') {
      this.#migration = 'cancelled';
      setTimeout(() => {
        this.#event('source', 'MIGRATION', { status: 'cancelled' });
        const resumes = this.sourceStatus === 'finish-migrate' && this.#statusBefore === 'running';
        if (resumes) this.#event('source', 'RESUME');
        this.sourceStatus = this.#statusBefore;
      }, 1);
    } else if (
      side === 'destination' &&
      this.destinationStatus === 'inmigrate' &&
      /^(cont|stop)$/.test(command)
    ) {
      this.#autostart = command === 'cont';
    } else if (side === 'source' && command === 'stop' && this.sourceStatus === 'running') {
      this.setRunning(false);
    } else if (command === 'cont') {
      if (side === 'source') this.sourceStatus = 'running';
      else this.destinationStatus = 'running';
      // QEMU tells of it before it answers.
      this.#event(side, 'RESUME');
    } else if (side === 'destination' && command === 'quit') {
      void this.kill('destination');
    }
  }
}
