import fc from 'fast-check';
import { pack, unpack } from 'msgpackr';
import { Mlx5Device } from '../../../device-models/mlx5/index.ts';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import { patienceNs } from '../../../device-models/mlx5/receive.ts';
import type { PreCopySession, StateRecord } from '../../../src/device/index.ts';
import { FakeDriver } from './driver.ts';
import { FakeHost, type FakeMemory, FakePort } from './fake-host.ts';
import { buildFrame } from './frames.ts';
import { type Bench, testMac } from './setup.ts';

const vectors = 4;
const multicast = Buffer.from('01005e000001', 'hex');
const stranger = Buffer.from([2, 0, 0, 0, 0, 8]);

/** To whom a frame goes: this vport or another, a group, everybody. */
type Cast = 'unicast' | 'foreign' | 'multicast' | 'broadcast';

export type Action =
  | {
      do: 'send';
      cast: Cast;
      ip: 4 | 6;
      udp: boolean;
      size: number;
      mss: number;
      vlan: boolean;
      channel: number;
    }
  | { do: 'receive'; cast: Cast; ip: 4 | 6; udp: boolean; size: number; vid: number; flow: number }
  | { do: 'burst'; count: number }
  | { do: 'link'; up: boolean }
  | { do: 'filter'; promisc: boolean; allMulti: boolean; vid: number }
  | { do: 'reopen'; channels: number; mtu: number }
  | { do: 'moderate'; period: number }
  | { do: 'fail' }
  | { do: 'time'; ns: number }
  | { do: 'precopy' }
  | { do: 'migrate'; busy: boolean };

const cast = fc.constantFrom<Cast>('unicast', 'foreign', 'multicast', 'broadcast');
const ip = fc.constantFrom<4 | 6>(4, 6);
const udp = fc.boolean();

/** What a guest and its network do, at random. */
export const anyAction: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('send' as const),
      cast: fc.constantFrom<Cast>('foreign', 'multicast', 'broadcast'),
      ip,
      udp,
      size: fc.integer({ min: 0, max: 3000 }),
      mss: fc.constantFrom(0, 0, 100, 536),
      vlan: fc.boolean(),
      channel: fc.nat(1),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('receive' as const),
      cast,
      ip,
      udp,
      size: fc.integer({ min: 0, max: 1600 }),
      vid: fc.constantFrom(-1, -1, 0, 5, 6),
      flow: fc.nat(50),
    }),
  },
  fc.record({ do: fc.constant('burst' as const), count: fc.integer({ min: 1, max: 90 }) }),
  fc.record({ do: fc.constant('link' as const), up: fc.boolean() }),
  fc.record({
    do: fc.constant('filter' as const),
    promisc: fc.boolean(),
    allMulti: fc.boolean(),
    vid: fc.constantFrom(0, 5, 6),
  }),
  fc.record({
    do: fc.constant('reopen' as const),
    channels: fc.integer({ min: 1, max: 2 }),
    mtu: fc.constantFrom(1522, 2022),
  }),
  fc.record({ do: fc.constant('moderate' as const), period: fc.constantFrom(0, 16) }),
  fc.record({ do: fc.constant('time' as const), ns: fc.integer({ min: 1, max: 30_000_000 }) }),
);

/** A record as it arrives: packed and unpacked. */
export function travel(record: StateRecord): StateRecord {
  return unpack(pack(record)) as StateRecord;
}

/** Runs actions on one guest, and keeps what can be seen from outside. */
export class Workload {
  readonly driver: FakeDriver;
  host: FakeHost;
  port: FakePort;
  device: Mlx5Device;
  /** Everything that left the device, wherever it was. */
  readonly sent: Buffer[] = [];
  readonly injected: Buffer[] = [];
  /** Frames that were to be sent while the link was down. */
  lost = 0;
  linkDowns = 0;
  /** Frames that were longer than the port's MTU, while the link was up. */
  tooLong = 0;
  migrations = 0;
  /** What happens to a state on its way: nothing, unless a test wants to see it noticed. */
  onTheWay: (records: readonly StateRecord[]) => readonly StateRecord[] = (records) => records;
  #hardMtu = 1522;
  #promisc = false;
  #allMulti = false;
  readonly #vids = new Set<number>();
  #session: PreCopySession | undefined;
  #records: StateRecord[] = [];

  constructor(memory?: FakeMemory) {
    this.host = new FakeHost(memory);
    this.port = new FakePort();
    this.device = this.#make();
    this.driver = new FakeDriver(this.host, this.device);
    this.driver.probe(vectors);
    this.driver.up(1);
  }

  #make(): Mlx5Device {
    return new Mlx5Device(this.host, { vectors, mac: testMac }, this.port);
  }

  /** The bench's parts, for helpers that want them. */
  get bench(): Bench {
    return { host: this.host, port: this.port, device: this.device, driver: this.driver };
  }

  run(actions: readonly Action[]): void {
    for (const action of actions) {
      this.#act(action);
      this.collect();
    }
    this.driver.poll();
    this.collect();
  }

  /** Lets everything that waits for a timer happen. */
  settle(): void {
    this.host.advance(100_000_000);
    this.driver.poll();
    this.collect();
  }

  collect(): void {
    this.sent.push(...this.port.sent.splice(0));
  }

  #act(action: Action): void {
    const { driver } = this;
    switch (action.do) {
      case 'send':
        this.#send(action);
        driver.poll();
        break;
      case 'receive':
        this.#inject(this.#frame(action.cast, action, action.vid, action.flow));
        driver.poll();
        break;
      case 'burst':
        // How much room there is must not depend on what moderation holds back.
        this.settle();
        for (let left = action.count; left > 0; left--) {
          this.#inject(buildFrame({ dst: driver.mac, sport: left }));
        }
        // The guest is slow: what its queue can't take waits for a while, then is lost.
        this.host.advance(patienceNs + 100_000_000);
        driver.poll();
        break;
      case 'link':
        if (this.port.linkUp && !action.up) this.linkDowns++;
        this.port.setLink(action.up);
        driver.poll();
        break;
      case 'filter':
        this.#filter(action);
        break;
      case 'reopen':
        if (!this.port.linkUp) this.port.setLink(true);
        // What moderation holds back is seen before its queue goes.
        this.settle();
        driver.down();
        driver.setMtu(action.mtu);
        this.#hardMtu = action.mtu;
        driver.up(action.channels);
        break;
      case 'moderate':
        driver.moderate(action.period);
        break;
      case 'time':
        this.host.advance(action.ns);
        driver.poll();
        break;
      case 'precopy':
        this.#precopy();
        break;
      case 'migrate':
        this.#migrate(action.busy);
        break;
      default:
        this.device.injectSendError();
    }
  }

  #mac(to: Cast): Buffer {
    if (to === 'unicast') return this.driver.mac;
    if (to === 'foreign') return stranger;
    return to === 'multicast' ? multicast : Buffer.alloc(6, 0xff);
  }

  #frame(to: Cast, of: { ip: 4 | 6; udp: boolean; size: number }, vid = -1, flow = 0): Buffer {
    return buildFrame({
      dst: this.#mac(to),
      ip: of.ip,
      protocol: of.udp ? 'udp' : 'tcp',
      payload: Buffer.alloc(of.size, flow + 1),
      sport: 1000 + flow,
      ...(vid >= 0 && { vlan: { type: 0x8100, tci: vid } }),
    });
  }

  #send(action: Extract<Action, { do: 'send' }>): void {
    const frame = this.#frame(action.cast, action);
    const headers = 14 + (action.ip === 4 ? 20 : 40) + (action.udp ? 8 : 20);
    const lso = action.mss > 0 && action.size > 0;
    const channel = action.channel % this.driver.channels.length;
    const pieces = [Math.max(1, action.size >> 1)];
    if (!this.port.linkUp) this.lost += lso ? Math.ceil(action.size / action.mss) : 1;
    this.driver.send(
      frame,
      lso
        ? { mss: action.mss, inline: headers, l3: true, l4: true, pieces }
        : { l3: true, l4: true, pieces, ...(action.vlan && { vlan: { type: 0x8000, tci: 9 } }) },
      channel,
    );
  }

  #inject(frame: Buffer): void {
    this.injected.push(frame);
    if (this.port.linkUp && frame.length > this.#hardMtu) this.tooLong++;
    this.port.inject(frame);
  }

  #filter({ promisc, allMulti, vid }: Extract<Action, { do: 'filter' }>): void {
    const { driver } = this;
    if (promisc !== this.#promisc) driver.promisc(promisc);
    this.#promisc = promisc;
    if (allMulti !== this.#allMulti) driver.allMulti(allMulti);
    this.#allMulti = allMulti;
    if (!this.#vids.has(vid)) driver.addVlan(vid);
    this.#vids.add(vid);
  }

  #precopy(): void {
    if (this.#session !== undefined) this.#session.end();
    this.#session = this.device.migration.preCopy();
    this.#records = [];
    this.#drain();
  }

  #drain(): void {
    for (;;) {
      const record = this.#session?.next();
      if (record === undefined) return;
      this.#records.push(travel(record));
    }
  }

  /**
   * Stops the device, moves its state to a fresh one over the same memory, and goes on there.
   * @param busy the guest and the network do something in between
   */
  #migrate(busy: boolean): void {
    const { driver, port } = this;
    this.#drain();
    this.host.mayInitiate = false;
    this.device.quiesce();
    if (busy) this.#meanwhile();
    const final = this.#session === undefined ? this.device.migration.save() : this.#session.final();
    const records = [...this.#records, ...[...final].map(travel)];
    this.#session?.end();
    this.#session = undefined;
    this.#records = [];
    this.collect();
    const time = this.host.time;
    this.device.close();
    this.host = new FakeHost(this.host.dma);
    this.host.mayInitiate = false;
    this.host.time = time + 12_345;
    this.port = new FakePort();
    this.port.linkUp = port.linkUp;
    this.device = this.#make();
    this.device.reset('client');
    this.device.migration.beginLoad(stateVersions.current);
    for (const record of this.onTheWay(records)) this.device.migration.load(record);
    this.device.migration.endLoad();
    this.port.kept.push(...port.kept);
    Object.assign(driver, { host: this.host, device: this.device });
    this.host.mayInitiate = true;
    this.device.resume();
    driver.poll();
    this.migrations++;
  }

  /** What happens whether or not the device stands still: a WQE is posted, a frame arrives. */
  #meanwhile(): void {
    const frame = this.#frame('broadcast', { ip: 4, udp: true, size: 50 });
    if (!this.port.linkUp) this.lost++;
    this.driver.send(frame);
    this.#inject(frame);
  }

  /** For the twin that does not migrate: the same happens to a device that goes on running. */
  stay(busy: boolean): void {
    if (busy) this.#meanwhile();
    this.driver.poll();
    this.collect();
  }
}
