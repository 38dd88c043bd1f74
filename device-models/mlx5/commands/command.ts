import type { Mlx5Core } from '../core.ts';
import { type FunctionPhase, functionPhase } from '../function-state.ts';
import { commandStatus, type FieldTable, type Layout, opcode } from '../prm/index.ts';
import { CommandRefused, require, syndrome } from '../refusal.ts';

/** Head of every command: opcode, uid, op_mod; and a status-only output. */
export const headBytes = 16;

/** One command of the device: what it needs, and what it does. */
export interface Command {
  readonly opcode: number;
  readonly name: string;
  /** Least bytes of input and output. */
  readonly input: number;
  readonly output: number;
  /** How far the function must have been brought up. */
  readonly phase: FunctionPhase;
  /** `output` is zeroed and at least `output` bytes long. */
  run(core: Mlx5Core, input: Buffer, output: Buffer): void;
}

type Size = Pick<Layout, 'size'> | undefined;

/**
 * Declares a command.
 * @param input layout of the input; left out: only the head
 * @param output layout of the output; left out: status and syndrome
 */
export function command(
  name: keyof typeof opcode,
  input: Size,
  output: Size,
  run: Command['run'],
  phase: FunctionPhase = functionPhase.INITIALIZED,
): Command {
  return {
    opcode: opcode[name],
    name,
    input: input?.size ?? headBytes,
    output: output?.size ?? 0,
    phase,
    run,
  };
}

/** Refuses what the capabilities do not offer: the fields `names` of the structure at byte `at` have to be 0. */
export function requireZero<T extends FieldTable>(
  layout: Layout<T>,
  input: Buffer,
  at: number,
  ...names: readonly (keyof T & string)[]
): void {
  for (const name of names) {
    require(layout.get(input, name, at) === 0, 'unsupportedType', `${layout.source.struct}.${name}`);
  }
}

/** A protection domain that there is, or 0: no driver is given that one, and Linux names it where none matters. */
export function requirePd(core: Mlx5Core, pd: number): void {
  require(pd === 0 || core.pds.find(pd) !== undefined, 'badDestination', `PD ${pd}`);
}

/** `op_mod` of a command. */
export function opMod(input: Buffer): number {
  return input.readUInt16BE(6);
}

/** Looks a command up, checks lengths and bring-up state, and runs it. */
export function executor(
  core: Mlx5Core,
  commands: readonly Command[],
): (input: Buffer, output: Buffer) => void {
  const byOpcode = new Map(commands.map((entry) => [entry.opcode, entry]));
  return (input, output) => {
    const number = input.readUInt16BE(0);
    const found = byOpcode.get(number);
    if (found === undefined) {
      throw new CommandRefused(
        commandStatus.BAD_OP_ERR,
        syndrome.unknownOpcode,
        `opcode 0x${number.toString(16)} is not implemented`,
      );
    }
    if (input.length < found.input) {
      throw new CommandRefused(
        commandStatus.BAD_INP_LEN_ERR,
        syndrome.inputTooShort,
        `${found.name}: ${input.length} bytes of input, ${found.input} needed`,
      );
    }
    if (output.length < found.output) {
      throw new CommandRefused(
        commandStatus.BAD_OUTP_LEN_ERR,
        syndrome.outputTooShort,
        `${found.name}: room for ${output.length} bytes of output, ${found.output} needed`,
      );
    }
    core.function.require(found.phase);
    found.run(core, input, output);
  };
}
