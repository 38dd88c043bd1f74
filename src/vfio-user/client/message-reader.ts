import { type HeaderFields, readHeader } from '../messages.ts';
import { header } from '../structs.ts';
import { ProtocolError } from './errors.ts';

/**
 * Cuts a byte stream that arrives in pieces into messages. Each message's payload is one buffer of its own, into
 * which the pieces are copied once.
 */
export class MessageReader {
  readonly #maxMessage: number;
  readonly #onMessage: (head: HeaderFields, payload: Buffer) => void;
  readonly #head = Buffer.alloc(header.size);
  #headFilled = 0;
  #fields: HeaderFields | undefined;
  #payload = Buffer.alloc(0);
  #filled = 0;

  /** @param maxMessage largest message accepted, header included */
  constructor(maxMessage: number, onMessage: (head: HeaderFields, payload: Buffer) => void) {
    this.#maxMessage = maxMessage;
    this.#onMessage = onMessage;
  }

  /** Whether a message has begun and not ended. */
  get inside(): boolean {
    return this.#headFilled > 0;
  }

  /** Takes the next piece; throws `ProtocolError` for an impossible header. */
  push(piece: Buffer): void {
    let at = 0;
    while (at < piece.length) {
      const fields = this.#fields;
      if (fields === undefined) {
        const taken = piece.copy(this.#head, this.#headFilled, at);
        at += taken;
        this.#headFilled += taken;
        if (this.#headFilled === header.size) this.#begin();
      } else {
        const taken = piece.copy(this.#payload, this.#filled, at);
        at += taken;
        this.#filled += taken;
      }
      if (this.#fields !== undefined && this.#filled === this.#payload.length) this.#end(this.#fields);
    }
  }

  #begin(): void {
    const fields = readHeader(this.#head, 0);
    if (fields.size < header.size || fields.size > this.#maxMessage) {
      throw new ProtocolError(`a message of ${fields.size} bytes`);
    }
    this.#fields = fields;
    this.#payload = Buffer.allocUnsafe(fields.size - header.size);
    this.#filled = 0;
  }

  #end(fields: HeaderFields): void {
    this.#fields = undefined;
    this.#headFilled = 0;
    this.#onMessage(fields, this.#payload);
  }
}
