import { isDeepStrictEqual } from 'node:util';
import { pack, unpack } from 'msgpackr';
import { Mlx5Device } from '../../../device-models/mlx5/index.ts';
import { limits } from '../../../device-models/mlx5/limits.ts';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import { parseMac } from '../../../device-models/mlx5/vport.ts';
import { type StateRecord, StateRefused } from '../../../src/device/index.ts';
import { FakeHost, FakePort } from '../../unit/mlx5/fake-host.ts';
import { CheckedMemory } from './checked-memory.ts';
import { mutateState, mutateStep, Random } from './mutate.ts';
import type { Recording, Step } from './recording.ts';

const pageBytes = 4096;

/** Accesses to guest memory and frames sent that one message may cost; beyond it, it is a loop. */
export const maxWorkPerMessage = 100_000;

/** A port that counts and keeps nothing of what is sent, and little of what the device does not take. */
class CountingPort extends FakePort {
  count = 0;
  onSend: () => void = () => {};

  override send(parts: readonly Uint8Array[], length: number): boolean {
    this.onSend();
    let sum = 0;
    for (const part of parts) sum += part.length;
    if (sum !== length) throw new Error(`pieces make ${sum} bytes, not ${length}`);
    if (!this.accepting) return false;
    this.count++;
    return true;
  }

  override announce(): void {}

  override inject(frame: Uint8Array): boolean {
    if (this.kept.length > 64) this.kept.length = 0;
    return super.inject(frame);
  }
}

/** What a run has found out. */
export interface ReplayFigures {
  messages: number;
  mutated: number;
  states: number;
  statesRefused: number;
  sessions: number;
  mostWork: number;
}

/** Plays a recording to a device in a world that watches it, as it was and made hostile. */
export class Replay {
  readonly figures: ReplayFigures = {
    messages: 0,
    mutated: 0,
    states: 0,
    statesRefused: 0,
    sessions: 0,
    mostWork: 0,
  };
  readonly #recording: Recording;
  readonly #memory: CheckedMemory;
  readonly #host: FakeHost;
  #port: CountingPort;
  #device: Mlx5Device;
  #work = 0;
  /** What a faithful play gives: frames sent, interrupts. */
  readonly #expected: readonly number[];

  readonly #prepare: (device: Mlx5Device) => void;

  /**
   * @param memoryBytes guest memory, from address 0
   * @param prepare gets every device that is made; a test plants its bugs there
   */
  constructor(recording: Recording, memoryBytes: number, prepare: (device: Mlx5Device) => void = () => {}) {
    this.#recording = recording;
    this.#prepare = prepare;
    this.#memory = CheckedMemory.create(memoryBytes);
    this.#memory.log.start(pageBytes, []);
    this.#memory.onAccess = () => this.#worked();
    this.#host = new FakeHost(this.#memory);
    [this.#device, this.#port] = this.#make();
    this.#expected = this.#playFaithfully();
  }

  /** Commands that were refused since the beginning. */
  get refused(): number {
    return this.#host.refusals;
  }

  get expected(): readonly number[] {
    return this.#expected;
  }

  close(): void {
    this.#device.close();
    this.#memory.close();
  }

  #worked(): void {
    if (++this.#work > maxWorkPerMessage) throw new Error('one message brings endless work');
  }

  #make(): [Mlx5Device, CountingPort] {
    const { vectors, mac } = this.#recording;
    const port = new CountingPort();
    port.onSend = () => this.#worked();
    const device = new Mlx5Device(this.#host, { vectors, mac }, port);
    this.#prepare(device);
    return [device, port];
  }

  /** Plays one step; the memory that the device will read is put in place first. */
  #play(step: Step): void {
    this.#work = 0;
    this.#host.fired.length = 0;
    for (const { at, bytes } of step.memory) {
      if (at + bytes.length <= this.#memory.bytes.length) this.#memory.bytes.set(bytes, at);
    }
    if (step.write !== undefined) {
      const { offset, bytes } = step.write;
      this.#device.bars[0].write(offset, bytes.length, Buffer.from(bytes), 0);
    } else if (step.frame !== undefined) this.#port.inject(step.frame);
    else this.#host.advance(100_000);
    this.figures.messages++;
    this.figures.mostWork = Math.max(this.figures.mostWork, this.#work);
  }

  /** A whole session as recorded, on a device just reset. */
  #playFaithfully(): number[] {
    this.#fresh();
    let interrupts = 0;
    const before = this.#port.count;
    for (const step of this.#recording.steps) {
      this.#play(step);
      interrupts += this.#host.fired.length;
    }
    return [this.#port.count - before, interrupts];
  }

  /** Back to power-on; nothing of the session before is left. */
  #fresh(): void {
    const port = this.#port;
    port.kept.length = 0;
    port.accepting = true;
    this.#memory.messageOnly = false;
    this.#host.mayInitiate = true;
    this.#host.pci.busMaster = true;
    this.#device.resume();
    this.#device.setLink(true);
    this.#device.core.sqs.failNext = false;
    this.#ownCard();
    this.#device.reset('client');
    this.#expectEmpty('after a reset');
    this.#clearMemory();
  }

  /** A card that came with a hostile state stays, whatever the reset: the recording is of another one. */
  #ownCard(): void {
    const { mac } = this.#recording;
    if (Buffer.from(this.#device.core.vport.factoryMac).equals(parseMac(mac) ?? Buffer.alloc(0))) return;
    this.#device.close();
    [this.#device, this.#port] = this.#make();
  }

  /** What guest and device have written; all of memory would be much. */
  #clearMemory(): void {
    const { bytes } = this.#memory;
    for (const page of this.#memory.takeDirty()) bytes.fill(0, page * pageBytes, (page + 1) * pageBytes);
    for (const { memory } of this.#recording.steps) {
      for (const piece of memory) bytes.fill(0, piece.at, piece.at + piece.bytes.length);
    }
  }

  #expectEmpty(when: string): void {
    const { core } = this.#device;
    const tables = [
      core.eqs.table,
      core.cqs.table,
      core.sqs.table,
      core.rqs.table,
      core.mkeys.table,
      core.tirs,
      core.rqts,
      core.tiss,
      core.pds,
      core.transportDomains,
      core.uars,
      core.qCounters,
      core.steering.tables,
    ];
    for (const table of tables) {
      if (table.size !== 0) throw new Error(`${table.size} of ${table.kind} are left ${when}`);
    }
    // Those of the send queues and of the receive path.
    if (this.#host.timers.size !== 2) throw new Error(`${this.#host.timers.size} timers are left ${when}`);
  }

  #expectSound(): void {
    const { errors } = this.#host;
    if (errors.length > 0) throw new Error('the device logged an error of its own', { cause: errors[0] });
    const wrong = this.#memory.violations[0];
    if (wrong !== undefined) throw new Error(`the device asked for a ${wrong}`);
    if (!this.#memory.guardsUntouched()) throw new Error('memory outside the guest was touched');
    const { core } = this.#device;
    if (!core.steering.withinLimits() || core.function.pages.length > limits.grantedPages)
      throw new Error('more is held than the limits say');
  }

  /** One hostile session of `count` mutated messages, somewhere in the recording; then all must be well. */
  hostileSession(seed: number, count: number): void {
    const random = new Random(seed);
    const { steps } = this.#recording;
    this.#fresh();
    // Half of the sessions begin with a device that is far along.
    const faithful = random.below(2) === 0 ? random.below(steps.length) : random.below(40);
    for (let at = 0; at < faithful; at++) {
      const step = steps[at];
      if (step !== undefined) this.#play(step);
    }
    let at = faithful;
    for (let left = count; left > 0; ) {
      const step = steps[at % steps.length];
      at++;
      if (step === undefined) continue;
      if (random.below(3) !== 0) {
        this.#play(step);
        continue;
      }
      left--;
      this.figures.mutated++;
      this.#hostile(random, step);
    }
    this.#expectMovable();
    this.#host.mayInitiate = true;
    this.#device.resume();
    this.#expectSound();
    this.figures.sessions++;
  }

  /** Whatever a guest has made of its device can be saved, and loaded by another that then is the same. */
  #expectMovable(): void {
    this.#host.mayInitiate = false;
    this.#device.quiesce();
    const records = [...this.#device.migration.save()].map(travel);
    const [other] = this.#make();
    try {
      other.reset('client');
      other.migration.beginLoad(stateVersions.current);
      for (const record of records) other.migration.load(record);
      other.migration.endLoad();
      if (!isDeepStrictEqual([...other.migration.save()].map(travel), records))
        throw new Error('the state that arrived is another');
    } finally {
      other.close();
    }
  }

  #hostile(random: Random, step: Step): void {
    const { steps } = this.#recording;
    switch (random.below(24)) {
      case 0:
        this.#play(random.pick(steps));
        break;
      case 1:
        this.#play(step);
        this.#play(step);
        break;
      case 2:
        break;
      case 3:
        this.#surroundings(random);
        break;
      case 4:
        this.#loadHostileState(random);
        break;
      default:
        this.#play(mutateStep(random, step, this.#recording));
    }
  }

  #surroundings(random: Random): void {
    this.#work = 0;
    const host = this.#host;
    switch (random.below(10)) {
      case 0:
        host.pci.busMaster = !host.pci.busMaster;
        this.#device.commandChanged();
        break;
      case 1:
      case 2:
        host.mayInitiate = !host.mayInitiate;
        if (host.mayInitiate) this.#device.resume();
        else this.#device.quiesce();
        break;
      case 3:
        this.#device.setLink(random.below(2) === 0);
        break;
      case 4:
        this.#device.reset(random.pick(['flr', 'client', 'power']));
        break;
      case 5:
        this.#port.accepting = !this.#port.accepting;
        break;
      case 6:
        this.#device.injectSendError();
        break;
      case 7:
        this.#memory.messageOnly = !this.#memory.messageOnly;
        break;
      case 8: {
        const target = Buffer.alloc(8);
        const count = random.pick([1, 2, 4, 8]);
        this.#device.bars[0].read(random.below(0x1100), count, target, 0);
        break;
      }
      default:
        host.advance(random.below(30_000_000));
    }
    this.figures.mostWork = Math.max(this.figures.mostWork, this.#work);
  }

  /** A state, whole or as a precopy gives it. */
  #saved(random: Random): StateRecord[] {
    const { migration } = this.#device;
    if (migration.estimate() <= 0) throw new Error('a state of no size');
    if (random.below(2) === 0) return [...migration.save()];
    const session = migration.preCopy();
    const records: StateRecord[] = [];
    for (let left = random.below(100); left > 0; left--) {
      const record = session.next();
      if (record === undefined) break;
      records.push(record);
    }
    records.push(...session.final());
    session.end();
    return records;
  }

  /** The device is saved, its state spoiled and loaded into another, which is either whole or empty afterwards. */
  #loadHostileState(random: Random): void {
    const host = this.#host;
    host.mayInitiate = false;
    this.#device.quiesce();
    this.#work = 0;
    const records = this.#saved(random).map(travel);
    const spoiled = mutateState(random, records).map(travel);
    const old = this.#device;
    const before = host.timers.size;
    [this.#device, this.#port] = this.#make();
    this.figures.states++;
    try {
      const { migration } = this.#device;
      this.#device.reset('client');
      migration.beginLoad(stateVersions.current);
      for (const record of spoiled) migration.load(record);
      migration.endLoad();
      old.close();
    } catch (error) {
      if (!(error instanceof StateRefused)) throw error;
      this.figures.statesRefused++;
      old.close();
      this.#expectEmpty('after a refused state');
    }
    if (host.timers.size > before) throw new Error('a load left timers behind');
    host.mayInitiate = true;
    this.#device.resume();
    this.figures.mostWork = Math.max(this.figures.mostWork, this.#work);
  }

  /** Whether the recording still has the effect that it had at first. */
  stillFaithful(): boolean {
    const [frames, interrupts] = this.#playFaithfully();
    this.#expectSound();
    return frames === this.#expected[0] && interrupts === this.#expected[1];
  }
}

function travel(record: StateRecord): StateRecord {
  return unpack(pack(record)) as StateRecord;
}
