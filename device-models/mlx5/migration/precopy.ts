import type { PreCopySession, StateRecord } from '../../../src/device/index.ts';
import type { Mlx5Core } from '../core.ts';
import type { DeviceObject } from '../objects.ts';
import { canonical } from './canonical.ts';
import { type ObjectCodec, objectCodecs } from './objects.ts';

/** Bytes that a typical object's record takes; only for estimates. */
export const typicalRecordBytes = 320;
/** Section that tells of an object sent earlier that is no more. */
export const goneSection = 'gone';

export function objectRecord(codec: ObjectCodec, object: DeviceObject): StateRecord {
  return { section: codec.kind, value: canonical({ id: object.id, ...codec.save(object) }) };
}

/**
 * Sends all objects while the device runs, then those that were made or changed since, and what is left when it is
 * stopped: the last changes, and everything that moves with every packet.
 */
export class Mlx5PreCopy implements PreCopySession {
  readonly #core: Mlx5Core;
  readonly #tail: () => Iterable<StateRecord>;
  /** Revision of each object as it was sent, by kind and id. */
  readonly #sent = new Map<ObjectCodec, Map<number, { object: DeviceObject; revision: number }>>();
  /** The first pass: all objects that were there at its start. */
  readonly #first: { codec: ObjectCodec; object: DeviceObject }[] = [];
  #at = 0;

  /** @param tail records that are sent at the very end */
  constructor(core: Mlx5Core, tail: () => Iterable<StateRecord>) {
    this.#core = core;
    this.#tail = tail;
    for (const codec of objectCodecs) {
      this.#sent.set(codec, new Map());
      for (const object of codec.table(core).values()) this.#first.push({ codec, object });
    }
  }

  initialBytes(): number {
    return (this.#first.length - this.#at) * typicalRecordBytes;
  }

  dirtyBytes(): number {
    if (this.#at < this.#first.length) return 0;
    let count = 0;
    for (const _change of this.#changes()) count++;
    return count * typicalRecordBytes;
  }

  next(): StateRecord | undefined {
    while (this.#at < this.#first.length) {
      const entry = this.#first[this.#at++];
      if (entry !== undefined && entry.codec.table(this.#core).find(entry.object.id) === entry.object) {
        return this.#send(entry.codec, entry.object);
      }
    }
    for (const change of this.#changes()) return change();
    return undefined;
  }

  *final(): Iterable<StateRecord> {
    this.#at = this.#first.length;
    for (const change of this.#changes()) yield change();
    yield* this.#tail();
  }

  end(): void {
    this.#sent.clear();
    this.#first.length = 0;
    this.#at = 0;
  }

  #send(codec: ObjectCodec, object: DeviceObject): StateRecord {
    this.#sent.get(codec)?.set(object.id, { object, revision: object.revision });
    return objectRecord(codec, object);
  }

  /** What the other side does not know yet; each change is noted as sent when it is called. */
  *#changes(): Generator<() => StateRecord> {
    for (const [codec, sent] of this.#sent) {
      const table = codec.table(this.#core);
      for (const id of sent.keys()) {
        if (table.find(id) !== undefined) continue;
        yield () => {
          sent.delete(id);
          return { section: goneSection, value: { kind: codec.kind, id } };
        };
      }
      for (const object of table.values()) {
        const known = sent.get(object.id);
        if (known?.object === object && known.revision === object.revision) continue;
        yield () => this.#send(codec, object);
      }
    }
  }
}
