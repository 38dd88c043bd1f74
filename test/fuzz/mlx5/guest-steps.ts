import type { Mlx5Core } from '../../../device-models/mlx5/core.ts';
import { functionPhase } from '../../../device-models/mlx5/function-state.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { firstUar } from '../../../device-models/mlx5/uar.ts';
import { queueState } from '../../../device-models/mlx5/work-queue.ts';
import { type Draft, Drafts } from './drafts.ts';
import type { Random } from './mutate.ts';
import { memoryBytes, type Step, slots } from './twin.ts';

const pageBytes = 4096;
/** Where frames are sent from and received to. */
const buffers = { at: 0x1d0000, bytes: 0x20000 } as const;

/** Tells the device where the slots of commands are. */
export const queueAddress: Step = { do: 'write', offset: 0x14, bytes: Buffer.from([0, 1, 0, 0]) };

/** What a guest and its network do at random, to a device as `core` has it. */
export class GuestSteps {
  readonly #random: Random;
  readonly #core: Mlx5Core;
  readonly #drafts: Drafts;

  constructor(random: Random, core: Mlx5Core) {
    this.#random = random;
    this.#core = core;
    this.#drafts = new Drafts(random, core);
  }

  /** Steps that belong together. */
  next(): readonly Step[] {
    const random = this.#random;
    const { host, function: state } = this.#core;
    const down = state.phase !== functionPhase.INITIALIZED;
    if (down && host.mayInitiate && random.below(20) === 0) return [{ do: 'probe' }];
    switch (random.below(22)) {
      case 0:
      case 1:
        return [{ do: 'frame', frame: this.#drafts.frame() }];
      case 2:
      case 3:
        return this.#postReceive();
      case 4:
      case 5:
        return this.#postSend();
      case 6:
      case 7:
        return this.#armCq();
      case 8:
      case 9:
        return this.#armEq();
      case 10:
        return [{ do: 'time', ns: random.below(300_000) }];
      case 11:
        return this.#surroundings();
      case 12:
        return this.#path();
      default:
        return [{ do: 'command', draft: this.#drafts.command(), slot: random.below(slots) }];
    }
  }

  /** Frames find a queue. */
  #path(): readonly Step[] {
    const port = Buffer.alloc(16 + 0x10);
    prm.accessRegisterIn.set(port, 'register_id', 0x5006);
    prm.paosReg.set(port, 'admin_status', 1, prm.accessRegisterIn.byte('register_data'));
    const up: Draft = { name: 'ACCESS_REG', input: port, outLength: 32, opMod: 0 };
    return [up, ...this.#drafts.path()].map((draft) => ({ do: 'command', draft, slot: 0 }));
  }

  #surroundings(): readonly Step[] {
    const random = this.#random;
    switch (random.below(12)) {
      case 0:
      case 1:
        return [{ do: 'link', up: random.below(3) !== 0 }];
      case 2:
      case 3:
        return [{ do: 'busMaster', on: random.below(3) !== 0 }];
      case 4:
        return [{ do: 'failSend' }];
      case 5:
        return random.below(3) === 0 ? [{ do: 'reset' }, queueAddress] : [];
      default:
        return [
          { do: 'link', up: true },
          { do: 'busMaster', on: true },
        ];
    }
  }

  /** @param own the page that the queue was made with: mostly that, for others do nothing */
  #uarWrite(own: number, register: number, bytes: Buffer): Step {
    const { uars } = this.#core;
    const any = this.#random.below(20) === 0 && uars.size > 0;
    const page = any ? this.#random.pick([...uars.values()]).id : own;
    return { do: 'write', offset: page * pageBytes + register, bytes };
  }

  #armCq(): readonly Step[] {
    const random = this.#random;
    const { table } = this.#core.cqs;
    if (table.size === 0) return [];
    const cq = random.pick([...table.values()]);
    const { uarPage } = cq.settings;
    const ci = (cq.pi - random.pick([0, 0, 0, 1, 2])) & 0xffffff;
    const doorbell = Buffer.alloc(8);
    doorbell.writeUInt32BE(((random.below(4) === 0 ? 1 << 24 : 0) | ci) >>> 0, 0);
    doorbell.writeUInt32BE(cq.id, 4);
    const record = Buffer.from(doorbell.subarray(0, 4));
    record[0] = 0;
    const steps: Step[] = [];
    if (cq.settings.dbr < memoryBytes) steps.push({ do: 'memory', at: cq.settings.dbr, bytes: record });
    // A 32-bit guest writes halves.
    if (random.below(3) === 0) {
      steps.push(
        this.#uarWrite(uarPage, 0x20, doorbell.subarray(0, 4)),
        this.#uarWrite(uarPage, 0x24, doorbell.subarray(4)),
      );
    } else steps.push(this.#uarWrite(uarPage, 0x20, doorbell));
    return random.below(10) === 0 ? steps.slice(0, -1) : steps;
  }

  #armEq(): readonly Step[] {
    const random = this.#random;
    const { table } = this.#core.eqs;
    if (table.size === 0) return [];
    const eq = random.pick([...table.values()]);
    const doorbell = Buffer.alloc(4);
    doorbell.writeUInt32BE(((eq.id << 24) | ((eq.pi - random.pick([0, 0, 0, 1])) & 0xffffff)) >>> 0);
    return [this.#uarWrite(eq.settings.uarPage, random.pick([0x40, 0x40, 0x48]), doorbell)];
  }

  /** A key, mostly one of `pd`. */
  #key(pd: number): number {
    const all = [...this.#core.mkeys.table.values()];
    const own = all.filter(({ settings }) => settings.pd === pd && settings.wholeSpace);
    const keys = own.length > 0 && this.#random.below(30) !== 0 ? own : all;
    if (keys.length === 0) return 0;
    const key = this.#random.pick(keys);
    return ((key.id << 8) | key.settings.variant) >>> 0;
  }

  /** A data segment. */
  #segment(bytes: Buffer, at: number, room: number, pd: number): void {
    bytes.writeUInt32BE(room, at);
    bytes.writeUInt32BE(this.#key(pd), at + 4);
    bytes.writeUInt32BE(buffers.at + this.#random.below(buffers.bytes), at + 12);
  }

  /** One of `queues`, mostly one that is ready. */
  #queue<T extends { readonly state: number }>(queues: Iterable<T>): T | undefined {
    const all = [...queues];
    const ready = all.filter(({ state }) => state === queueState.RDY);
    const some = ready.length > 0 && this.#random.below(8) !== 0 ? ready : all;
    return some.length > 0 ? this.#random.pick(some) : undefined;
  }

  #postReceive(): readonly Step[] {
    const random = this.#random;
    const rq = this.#queue(this.#core.rqs.table.values());
    if (rq === undefined) return [];
    const { dbr, pd } = rq.settings.wq;
    const steps: Step[] = [];
    const count = random.below(Math.min(8, rq.ring.size) + 1);
    for (let index = 0; index < count; index++) {
      const at = rq.ring.address(rq.ci + index);
      const wqe = Buffer.alloc(2 ** rq.settings.wq.logStride);
      for (let segment = 0; segment < wqe.length; segment += 16) {
        this.#segment(wqe, segment, random.pick([64, 2048, 2048]), pd);
      }
      if (at + wqe.length <= memoryBytes) steps.push({ do: 'memory', at, bytes: wqe });
    }
    const record = Buffer.alloc(4);
    record.writeUInt32BE((rq.ci + count) & 0xffff);
    if (dbr + 4 <= memoryBytes) steps.push({ do: 'memory', at: dbr, bytes: record });
    return steps;
  }

  #postSend(): readonly Step[] {
    const random = this.#random;
    const sq = this.#queue(this.#core.sqs.table.values());
    if (sq === undefined) return [];
    const { dbr, pd } = sq.settings.wq;
    const steps: Step[] = [];
    const count = random.below(Math.min(4, sq.ring.size) + 1);
    let control = Buffer.alloc(8);
    for (let index = 0; index < count; index++) {
      const wqe = Buffer.alloc(64);
      const send = sq.settings.tisn !== 0 && random.below(3) !== 0;
      wqe.writeUInt32BE((((sq.ci + index) & 0xffff) << 8) | (send ? prm.wqeOpcode.SEND : 0), 0);
      wqe.writeUInt32BE(((sq.id << 8) | (send ? 3 : 1)) >>> 0, 4);
      wqe[11] = random.pick([8, 8, 0, 12]);
      if (send) this.#segment(wqe, 32, random.pick([60, 300, 1514]), pd);
      const at = sq.ring.address(sq.ci + index);
      if (at + 64 <= memoryBytes) steps.push({ do: 'memory', at, bytes: wqe });
      control = Buffer.from(wqe.subarray(0, 8));
    }
    control.writeUInt32BE((sq.id << 8) >>> 0, 4);
    const record = Buffer.alloc(4);
    record.writeUInt32BE((sq.ci + count) & 0xffff);
    if (dbr + 8 <= memoryBytes) steps.push({ do: 'memory', at: dbr + 4, bytes: record });
    steps.push(this.#uarWrite(sq.settings.uarPage ?? firstUar, 0x800, control));
    return random.below(10) === 0 ? steps.slice(0, -1) : steps;
  }
}
