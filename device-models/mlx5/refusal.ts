import { CompanionError, errno } from '../../src/device/index.ts';
import { type CommandStatus, commandStatus } from './prm/index.ts';

/**
 * Why a command was refused, as the `syndrome` that the guest's driver prints. The numbers are this device's own
 * (a vendor's syndromes are not public); each is raised in one place of meaning.
 */
export const syndrome = {
  unknownOpcode: 0x0c0001,
  inputTooShort: 0x0c0002,
  outputTooShort: 0x0c0003,
  internal: 0x0c0004,
  notEnabled: 0x0c0005,
  initialized: 0x0c0006,
  noSuchObject: 0x0c0010,
  tooManyObjects: 0x0c0011,
  objectInUse: 0x0c0012,
  badAddress: 0x0c0020,
  badSize: 0x0c0021,
  badPageList: 0x0c0022,
  badVector: 0x0c0023,
  badState: 0x0c0024,
  unsupportedType: 0x0c0025,
  badModifyMask: 0x0c0026,
  badUar: 0x0c0027,
  badIndex: 0x0c0030,
  badRange: 0x0c0031,
  rangeOverlaps: 0x0c0032,
  badDestination: 0x0c0033,
  badAction: 0x0c0034,
  badLevel: 0x0c0035,
  badMatch: 0x0c0036,
  unknownCapability: 0x0c0040,
  capabilityFixed: 0x0c0041,
  unknownRegister: 0x0c0042,
  badRegisterValue: 0x0c0043,
  otherFunction: 0x0c0044,
  tooManyPages: 0x0c0050,
} as const;

/** A command that the device refuses: answered with `status` and `syndrome`, nothing changed. */
export class CommandRefused extends CompanionError {
  readonly status: CommandStatus;
  readonly syndrome: number;

  constructor(status: CommandStatus, syndromeValue: number, what: string) {
    super('VC_MLX5_COMMAND', what, { errno: errno.EINVAL });
    this.status = status;
    this.syndrome = syndromeValue;
  }
}

/** BAD_PARAM with a syndrome: the commonest refusal. */
export function badParam(name: keyof typeof syndrome, what: string): CommandRefused {
  return new CommandRefused(commandStatus.BAD_PARAM_ERR, syndrome[name], what);
}

/** An object that can't go while `user` refers to it. Firmware answers so whatever the kind: DEALLOC_PD, DESTROY_CQ, DESTROY_FLOW_GROUP. */
export function inUse(what: string, user: string): CommandRefused {
  return new CommandRefused(
    commandStatus.BAD_RES_STATE_ERR,
    syndrome.objectInUse,
    `${what} is in use by ${user}`,
  );
}

/** Refuses with BAD_PARAM unless `condition` holds. */
export function require(condition: boolean, name: keyof typeof syndrome, what: string): asserts condition {
  if (!condition) throw badParam(name, what);
}
