import { CompanionError, errno } from '../errors.ts';

/** A `PciDescription` that no PCI function can have; the message names the field. */
export class PciDescriptionError extends CompanionError {
  constructor(message: string, hint?: string) {
    super('VC_PCI_DESCRIPTION', message, { errno: errno.EINVAL, hint });
  }
}

/** Saved PCI or interrupt state that this function cannot become. */
export class PciStateError extends CompanionError {
  constructor(message: string) {
    super('VC_PCI_STATE', message, {
      errno: errno.EINVAL,
      hint: 'save and load with the same model, options and version on both sides',
    });
  }
}

/** A device model asked for an interrupt that its own description does not have. */
export class NoSuchVector extends CompanionError {
  constructor(vector: number, vectors: number) {
    super('VC_NO_VECTOR', `interrupt vector ${vector} does not exist: the function has ${vectors}`, {
      errno: errno.EINVAL,
      hint: 'raise `vectors` in the description, or trigger a lower vector',
    });
  }
}
