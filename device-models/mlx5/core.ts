import type { DeviceHost } from '../../src/device/index.ts';
import type { NetPort } from '../../src/net/types.ts';
import { Clock } from './clock.ts';
import { Counters, queueCounterTable } from './counters.ts';
import { CompletionQueues } from './cq.ts';
import { EventQueues } from './eq.ts';
import { FunctionState, functionPhase } from './function-state.ts';
import { limits } from './limits.ts';
import { Link } from './link.ts';
import { Mkeys } from './mkeys.ts';
import { DeviceObject, ObjectTable } from './objects.ts';
import { Transmitter } from './offload/transmit.ts';
import { ReceivePath } from './receive.ts';
import { ReceiveQueues } from './rq.ts';
import { SendQueues } from './sq.ts';
import { Steering } from './steering/tables.ts';
import { rqtTable, selfLoopback, tirTable } from './steering/tir.ts';
import type { Tis } from './tis.ts';
import { firstUar, type Uar, uarCount } from './uar.ts';
import { macBytesOf, portStatus, Vport, vportAdminState } from './vport.ts';

/** What a device is made of besides the host. */
export interface CoreOptions {
  readonly vectors: number;
  readonly mac: Uint8Array;
  readonly port: NetPort;
}

/** A PD or a transport domain: an id and nothing else. */
export class BareObject extends DeviceObject {}

/** All parts of one device, wired to each other. Commands, doorbells and migration act on it. */
export class Mlx5Core {
  readonly host: DeviceHost;
  readonly vectors: number;
  readonly port: NetPort;
  readonly clock: Clock;
  readonly counters = new Counters();
  readonly function = new FunctionState();
  readonly vport: Vport;
  readonly link: Link;
  readonly eqs: EventQueues;
  readonly cqs: CompletionQueues;
  readonly sqs: SendQueues;
  readonly rqs: ReceiveQueues;
  readonly mkeys = new Mkeys();
  readonly steering = new Steering();
  readonly tirs = tirTable();
  readonly rqts = rqtTable();
  readonly qCounters = queueCounterTable();
  readonly tiss = new ObjectTable<Tis>('tis', 1, limits.tiss, 8 * limits.tiss);
  readonly pds = new ObjectTable<BareObject>('pd', 1, limits.pds, 8 * limits.pds);
  readonly transportDomains = new ObjectTable<BareObject>(
    'transport_domain',
    1,
    limits.transportDomains,
    8 * limits.transportDomains,
  );
  readonly uars = new ObjectTable<Uar>('uar', firstUar, limits.uars, uarCount);
  readonly receive: ReceivePath;
  #announce = false;

  constructor(host: DeviceHost, options: CoreOptions) {
    this.host = host;
    this.vectors = options.vectors;
    this.port = options.port;
    this.clock = new Clock(host);
    this.vport = new Vport(options.mac);
    this.eqs = new EventQueues(host);
    this.cqs = new CompletionQueues(host, this.eqs);
    this.link = new Link(host, options.port.linkUp, this.eqs, this.counters);
    const core = this;
    const transmitter = new Transmitter({
      counters: this.counters,
      get port() {
        return core.portForSending();
      },
      sent: (head) => core.vport.sent(head),
      comesBack: (head) => core.#comesBack(head),
      loopback: (parts, length) => core.#loopback(parts, length),
    });
    this.sqs = new SendQueues(host, {
      cqs: this.cqs,
      transmitter,
      clock: this.clock,
      mkeys: this.mkeys,
      counters: this.counters,
    });
    this.rqs = new ReceiveQueues(host, {
      cqs: this.cqs,
      clock: this.clock,
      mkeys: this.mkeys,
      qCounters: this.qCounters,
    });
    this.receive = new ReceivePath(host, {
      steering: this.steering,
      tirs: this.tirs,
      rqts: this.rqts,
      rqs: this.rqs,
      counters: this.counters,
      accepts: () => this.accepts(),
      maxFrame: () => this.vport.hardMtu,
      ready: () => this.port.ready(),
    });
    this.cqs.onArm = (cq) => this.receive.armed(cq);
    this.port.receive((frame) => {
      this.vport.heard(frame);
      return this.receive.receive(frame);
    });
    this.port.onLink((up) => this.setLink(up));
  }

  /** Whether frames from the network are looked at. */
  accepts(): boolean {
    return (
      this.function.phase === functionPhase.INITIALIZED &&
      this.vport.portAdmin === portStatus.UP &&
      this.carrier()
    );
  }

  /** The cable: while it is pulled, an address can go elsewhere unheard. */
  setLink(up: boolean): void {
    this.link.set(up);
    if (!up) this.vport.known = false;
  }

  /** Link state as the vport shows it. */
  carrier(): boolean {
    return this.link.up && this.vport.adminState !== vportAdminState.DOWN;
  }

  portForSending(): NetPort | undefined {
    return this.carrier() ? this.port : undefined;
  }

  /** Frames to the vport's own address do, when a TIR asked to hear them (the driver's loopback self-test). */
  #comesBack(head: Uint8Array): boolean {
    return (this.vport.selfLoopback & selfLoopback.UNICAST) !== 0 && this.vport.isOwnMac(head);
  }

  #loopback(parts: readonly Uint8Array[], length: number): void {
    const frame = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      frame.set(part, at);
      at += part.length;
    }
    // A queue that has no room now does not get the frame: there is no port that could keep it.
    this.receive.receive(frame);
  }

  /** Recomputes what follows from all TIRs together. */
  tirsChanged(): void {
    let bits = 0;
    for (const tir of this.tirs.values()) bits |= tir.settings.selfLoopback;
    this.vport.selfLoopback = bits;
  }

  /** A state was loaded: what follows from the objects is computed again, and the network told who lives here. */
  objectsLoaded(): void {
    this.eqs.loaded();
    this.tirsChanged();
    this.#announce = true;
  }

  /** Everything that a driver created is gone; TEARDOWN_HCA and every reset. */
  clearObjects(): void {
    this.sqs.clear();
    this.rqs.table.clear();
    this.cqs.clear();
    this.eqs.clear();
    this.mkeys.table.clear();
    this.steering.clear();
    this.tirs.clear();
    this.rqts.clear();
    this.tiss.clear();
    this.qCounters.clear();
    this.pds.clear();
    this.transportDomains.clear();
    this.uars.clear();
    this.vport.selfLoopback = 0;
    this.receive.clear();
  }

  /** As before ENABLE_HCA: nothing of a driver is left. */
  disable(): void {
    this.clearObjects();
    this.function.reset();
  }

  /** After a pause: looks at everything that may wait. */
  wake(): void {
    if (this.#announce) this.#announceAddresses();
    this.link.report();
    this.cqs.evaluateAll();
    this.eqs.evaluateAll();
    this.sqs.runAll();
    this.receive.wake();
  }

  /**
   * After a migration: the switch learns at once where this device's addresses live now. Not of the interface's own where that was not
   * known to be here: it would be taken from the card that has it, as from the active one of a bond.
   */
  #announceAddresses(): void {
    this.#announce = false;
    this.port.activate();
    if (this.function.phase !== functionPhase.INITIALIZED) return;
    const { addresses, known, own, vlans } = this.vport;
    for (const mac of addresses) if (known || mac !== own) this.port.announce(macBytesOf(mac));
    if (!known) return;
    // Interfaces in VLANs have the address of the one that they are on; one by one, all of both lists would be too many.
    for (const vlan of vlans) this.port.announce(macBytesOf(own), vlan);
  }

  close(): void {
    this.receive.close();
    this.clearObjects();
    this.sqs.close();
    this.port.close();
  }
}
