import { capability, capabilityType } from './caps.ts';
import { limits } from './limits.ts';
import { cmdHcaCap, commandStatus } from './prm/index.ts';
import { badParam, CommandRefused, syndrome } from './refusal.ts';

/** How far a driver has brought the function up: ENABLE_HCA, INIT_HCA and back. */
export const functionPhase = { DISABLED: 0, ENABLED: 1, INITIALIZED: 2 } as const;
export type FunctionPhase = (typeof functionPhase)[keyof typeof functionPhase];

/** Bring-up state, current capabilities and the pages that the guest gave. */
export class FunctionState {
  phase: FunctionPhase = functionPhase.DISABLED;
  issi = 0;
  /** `cmd_hca_cap` as SET_HCA_CAP left it. */
  general: Buffer = freshGeneral();
  /** Guest pages given with MANAGE_PAGES; this device uses none, but gives all of them back. */
  readonly pages: number[] = [];

  reset(): void {
    this.phase = functionPhase.DISABLED;
    this.issi = 0;
    this.general = freshGeneral();
    this.pages.length = 0;
  }

  /** Current capability of a type (what SET_HCA_CAP may have changed). */
  current(type: number): Buffer {
    const buffer = capability(type);
    if (type === capabilityType.GENERAL) this.general.copy(buffer);
    return buffer;
  }

  give(page: number): void {
    if (this.pages.length >= limits.grantedPages)
      throw badParam('tooManyPages', 'more pages than were asked for');
    this.pages.push(page);
  }

  require(phase: FunctionPhase): void {
    if (this.phase >= phase) return;
    throw new CommandRefused(
      commandStatus.BAD_SYS_STATE_ERR,
      syndrome.notEnabled,
      phase === functionPhase.ENABLED ? 'the function is not enabled' : 'the function is not initialized',
    );
  }

  /** For what INIT_HCA puts an end to until the next TEARDOWN_HCA. */
  requireUninitialized(): void {
    if (this.phase !== functionPhase.INITIALIZED) return;
    throw new CommandRefused(
      commandStatus.BAD_SYS_STATE_ERR,
      syndrome.initialized,
      'the function is initialized already',
    );
  }
}

function freshGeneral(): Buffer {
  return Buffer.from(capability(capabilityType.GENERAL).subarray(0, cmdHcaCap.size));
}
