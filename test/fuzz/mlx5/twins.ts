import * as prm from '../../../device-models/mlx5/prm/index.ts';
import type { StateRecord } from '../../../src/device/index.ts';
import { GuestSteps, queueAddress } from './guest-steps.ts';
import { Random } from './mutate.ts';
import { differing, nearlyLastIds, type Step, Twin } from './twin.ts';

/** What each pair does before the next one begins. */
const movesPerPair = 400;

/** What a run has done. */
export interface TwinFigures {
  commands: number;
  accepted: number;
  steps: number;
  migrations: number;
  sent: number;
  fired: number;
  received: number;
}

/**
 * Two guests that do the same, at random: commands of all kinds for objects that exist, doorbells, frames. The device of one
 * migrates now and then, that of the other never does. Whatever a guest can see has to be the same: memory, interrupts, frames.
 */
export class Twins {
  readonly figures = noFigures();
  readonly #random: Random;
  readonly #stays = new Twin();
  readonly #moves = new Twin();
  readonly #guest: GuestSteps;
  readonly #onTheWay: (record: StateRecord) => StateRecord;
  #last = 'nothing';

  /** @param onTheWay changes a record of a state on its way: a test that wants to see that noticed */
  constructor(seed: number, onTheWay: (record: StateRecord) => StateRecord = (record) => record) {
    this.#random = new Random(seed);
    this.#onTheWay = onTheWay;
    this.#guest = new GuestSteps(this.#random, this.#stays.device.core);
    this.#both(this.#random.below(4) !== 0 ? { do: 'probe' } : queueAddress);
    if (this.#random.below(2) === 0)
      for (const twin of [this.#stays, this.#moves]) nearlyLastIds(twin.device.core);
  }

  /** @throws Error when the twins differ, or a state does not arrive as it was saved */
  run(count: number): TwinFigures {
    for (let left = count; left > 0; left--) {
      const dice = this.#random.below(60);
      if (dice === 0) this.#migrate();
      else if (dice === 1) this.#moves.beginPreCopy();
      else {
        if (dice < 8) this.#moves.preCopy(this.#random.below(40));
        this.#step();
      }
    }
    this.#migrate();
    for (const packets of this.#stays.device.core.counters.vport.rx.packets) this.figures.received += packets;
    return this.figures;
  }

  close(): void {
    for (const twin of [this.#stays, this.#moves]) twin.device.close();
  }

  #step(): void {
    for (const step of this.#guest.next()) {
      this.#both(step);
      if (step.do === 'command') {
        this.figures.commands++;
        if (this.#stays.status(step.slot) === prm.commandStatus.OK) this.figures.accepted++;
      }
    }
    this.#compare();
  }

  #both(step: Step): void {
    this.#last = step.do === 'command' ? step.draft.name : step.do;
    this.figures.steps++;
    for (const twin of [this.#stays, this.#moves]) twin.play(step);
  }

  #compare(): void {
    const [stays, moves] = [this.#stays, this.#moves];
    const at = `after ${this.#last}, step ${this.figures.steps}`;
    if (!stays.memory.bytes.equals(moves.memory.bytes)) {
      let byte = 0;
      while (stays.memory.bytes[byte] === moves.memory.bytes[byte]) byte++;
      throw new Error(`memory differs from 0x${byte.toString(16)} on ${at}`);
    }
    if (stays.fired.join() !== moves.fired.join()) throw new Error(`interrupts differ ${at}`);
    if (stays.sent.join() !== moves.sent.join()) throw new Error(`frames that leave differ ${at}`);
    if (stays.port.kept.length !== moves.port.kept.length) throw new Error(`frames that wait differ ${at}`);
    this.figures.sent += stays.sent.length;
    this.figures.fired += stays.fired.length;
    for (const twin of [stays, moves]) {
      twin.sent.length = 0;
      twin.fired.length = 0;
    }
  }

  /** One of the twins' devices moves, with things happening while it stands still. */
  #migrate(): void {
    const [stays, moves] = [this.#stays, this.#moves];
    for (const twin of [stays, moves]) twin.pause();
    for (let left = this.#random.below(4); left > 0; left--) this.#step();
    const state = moves.migrate(this.#onTheWay);
    const other = stays.saved();
    if (other !== state) throw new Error(`states differ: ${differing(other, state)}`);
    stays.goOn();
    moves.arrive();
    this.figures.migrations++;
    this.#last = 'a migration';
    this.#compare();
  }
}

function noFigures(): TwinFigures {
  return { commands: 0, accepted: 0, steps: 0, migrations: 0, sent: 0, fired: 0, received: 0 };
}

/** Runs pairs of twins until `steps` steps are done. Throws, and names the seed, when two differ. */
export function runTwins(seed: number, steps: number): TwinFigures {
  const total = noFigures();
  for (let at = seed; total.steps < steps; at = (at + 1) >>> 0) {
    let twins: Twins | undefined;
    try {
      twins = new Twins(at);
      const figures = twins.run(movesPerPair);
      for (const name of Object.keys(total) as (keyof TwinFigures)[]) total[name] += figures[name];
    } catch (error) {
      throw new Error(`mlx5 twins with seed ${at}: ${(error as Error).message}`, { cause: error });
    } finally {
      twins?.close();
    }
  }
  return total;
}

/** Compares as many steps as `steps` says; gives what to tell about them. */
export function fuzzTwins(seed: number, steps: number): string {
  const { accepted, commands, migrations, sent, received } = runTwins(seed, steps);
  return (
    `mlx5, twins: ${accepted} of ${commands} commands accepted, ${sent} frames sent, ${received} received, ` +
    `${migrations} migrations: no difference`
  );
}
