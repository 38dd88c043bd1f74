import type { Logger } from '../../log.ts';
import type { Reactor, Timer } from '../../loop/types.ts';
import { FrameQueue, type QueueLimits } from '../frame-queue.ts';
import type { Fabric } from './fabric.ts';
import type { Member } from './member.ts';
import type { PortState } from './protocol.ts';

const NS_PER_SECOND = 1e9;

export interface SuccessionOptions {
  readonly reactor: Reactor;
  readonly log: Logger;
  readonly fabric: Fabric;
  readonly parkLimits: QueueLimits;
  /** Seconds that frames are kept for a parked port whose process is gone. */
  readonly parkSeconds: number;
  /** Most of them: clients that come, park and go must not fill the memory. */
  readonly maxAbandoned: number;
  /** Seconds that a successor waits for the frames that a parked port has still to give back. */
  readonly returnSeconds: number;
}

/**
 * Which of several ports is a NIC at the moment, across a migration: parking one, another one taking its
 * place with what was kept, and what happens when either dies meanwhile. Order of delivery: frames that the
 * parked port gave back, frames that were queued for it, frames that came after.
 */
export class Succession {
  readonly #options: SuccessionOptions;
  readonly #timers = new Map<Member, Timer>();

  constructor(options: SuccessionOptions) {
    this.#options = options;
  }

  /** A new port of this identity is in charge, unless another one is. */
  initialState(member: Member): PortState {
    return this.#inCharge(member) === undefined ? 'active' : 'standby';
  }

  park(member: Member): void {
    if (member.state !== 'active') {
      // It waits for an answer, and may not know yet what it is.
      member.notify({ op: 'state', state: member.state });
      return;
    }
    member.state = 'parked';
    member.returned = new FrameQueue(this.#options.parkLimits);
    member.queue.limits = this.#options.parkLimits;
    member.notify({ op: 'parked' });
  }

  /** A parked port has given back everything. */
  returnComplete(member: Member): void {
    const { returned, successor } = member;
    if (returned === undefined) return;
    member.returned = undefined;
    member.successor = undefined;
    this.#stopTimer(member);
    member.stats.parkDropped += returned.append(member.queue);
    member.queue = returned;
    if (successor === undefined) return;
    successor.succeeding = false;
    if (!successor.gone) this.#takeOver(successor, member);
  }

  standby(member: Member): void {
    this.#desist(member);
    member.reserved = true;
    if (member.state === 'standby') return;
    this.returnComplete(member);
    this.#set(member, 'standby');
    member.stats.dropped += member.queue.frames;
    member.queue.clear();
    this.#options.fabric.table.forget(member.number);
    this.#replace(member);
  }

  /** `member` is in charge from now on. */
  activate(member: Member): void {
    member.reserved = false;
    if (member.state === 'active') return;
    if (member.state === 'parked') {
      this.returnComplete(member);
      if (member.state !== 'parked') return;
      this.#set(member, 'active');
      member.drain();
      return;
    }
    const owner = this.#inCharge(member);
    if (owner === undefined) {
      this.#set(member, 'active');
      member.drain();
    } else this.#succeed(member, owner);
  }

  /**
   * A MAC address lives at `member` now, whatever was known about it: it is learnt as from any frame. What is kept for
   * a parked port goes with it only if that port is the same NIC, or has not said which it is: guests choose addresses.
   */
  announce(member: Member, high: number, low: number, now: number): void {
    const { fabric } = this.#options;
    // Its guest may not have said anything for long.
    const owner = fabric.at(fabric.table.last(high, low));
    const follows = owner !== undefined && owner !== member && mayFollow(member, owner);
    // Its wish to be parked may still lie in its socket.
    if (follows) owner.receivePending();
    if (member.state !== 'active') this.activate(member);
    if (follows && owner.state === 'parked') this.#succeed(member, owner);
    // While it waits for a predecessor, what comes goes behind what is kept there; its addresses move then.
    if (member.state === 'active' && !member.succeeding) fabric.table.learn(high, low, member.number, now);
  }

  /** The connection of `member` has ended. */
  gone(member: Member): void {
    const { parkSeconds } = this.#options;
    this.#desist(member);
    if (member.state === 'parked') {
      const { successor } = member;
      this.returnComplete(member);
      if (successor === undefined && this.#abandoned > this.#options.maxAbandoned) {
        this.#options.log.warn(
          { port: member.name },
          'too many ports were left parked: what was kept for one is dropped',
        );
        this.#leave(member);
      } else if (successor === undefined)
        this.#after(member, parkSeconds * NS_PER_SECOND, () => {
          this.#options.log.warn(
            { port: member.name, frames: member.queue.frames },
            'nobody took the place of a parked port: what was kept for it is dropped',
          );
          this.#leave(member);
        });
      return;
    }
    this.#leave(member);
  }

  close(): void {
    for (const timer of this.#timers.values()) timer.close();
    this.#timers.clear();
  }

  /** Parked ports whose process is gone. */
  get #abandoned(): number {
    return this.#options.fabric.ports.filter((port) => port.gone).length;
  }

  /** `member` does not wait any more to take over. */
  #desist(member: Member): void {
    member.succeeding = false;
    for (const other of this.#options.fabric.ports)
      if (other.successor === member) other.successor = undefined;
  }

  #leave(member: Member): void {
    const wasInCharge = member.state !== 'standby';
    this.#stopTimer(member);
    this.#options.fabric.remove(member);
    member.queue.clear();
    if (wasInCharge) this.#replace(member);
  }

  /** The place of `member`, which has left it, goes to the next port of its identity, unless somebody has it already. */
  #replace(member: Member): void {
    if (member.identity === undefined || this.#inCharge(member) !== undefined) return;
    const next = this.#options.fabric.ports.find(
      (other) =>
        other.identity === member.identity && other.state === 'standby' && !other.reserved && !other.gone,
    );
    if (next === undefined) return;
    this.#set(next, 'active');
    next.drain();
  }

  #succeed(member: Member, owner: Member): void {
    // Its guest's last frames may still lie in its socket, and go before the first of its successor; so may its wish to
    // be parked, and what it gives back.
    owner.receivePending();
    if (owner.returned === undefined) {
      this.#takeOver(member, owner);
      return;
    }
    owner.successor = member;
    // The guest is there already: what it sends goes on.
    member.succeeding = true;
    this.#after(owner, this.#options.returnSeconds * NS_PER_SECOND, () => {
      owner.receivePending();
      this.returnComplete(owner);
    });
  }

  #takeOver(member: Member, owner: Member): void {
    const { fabric, log } = this.#options;
    const kept = owner.queue;
    kept.limits = this.#untilDrained(member);
    owner.queue = new FrameQueue(owner.limits);
    log.info({ port: member.name, from: owner.name, frames: kept.frames }, 'port takes over');
    member.stats.dropped += kept.append(member.queue);
    member.queue = kept;
    fabric.table.move(owner.number, member.number);
    this.#stopTimer(owner);
    this.#set(owner, 'standby');
    if (owner.gone) this.#leave(owner);
    this.#set(member, 'active');
    member.drain();
  }

  /** The port that is in charge of `member`'s identity, other than itself. */
  #inCharge(member: Member): Member | undefined {
    if (member.identity === undefined) return undefined;
    return this.#options.fabric.ports.find(
      (other) => other !== member && other.identity === member.identity && other.state !== 'standby',
    );
  }

  /** Behind what was kept there is to be room for what comes now; `Member.drain` puts the port's own limits back. */
  #untilDrained(member: Member): QueueLimits {
    const { parkLimits } = this.#options;
    return {
      frames: Math.max(parkLimits.frames, member.limits.frames),
      bytes: Math.max(parkLimits.bytes, member.limits.bytes),
    };
  }

  #set(member: Member, state: PortState): void {
    if (state === 'active') member.queue.limits = this.#untilDrained(member);
    if (member.state === state) return;
    member.state = state;
    member.notify({ op: 'state', state });
  }

  #after(member: Member, delayNs: number, action: () => void): void {
    this.#stopTimer(member);
    const timer = this.#options.reactor.timer(() => {
      this.#stopTimer(member);
      action();
    });
    this.#timers.set(member, timer);
    timer.arm(delayNs);
  }

  #stopTimer(member: Member): void {
    this.#timers.get(member)?.close();
    this.#timers.delete(member);
  }
}

/** Whether `member` can be where the NIC at `owner` is now. */
function mayFollow(member: Member, owner: Member): boolean {
  return owner.identity === undefined || owner.identity === member.identity;
}
