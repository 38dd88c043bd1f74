import type { PreCopySession, StateRecord } from '../../../src/device/index.ts';
import type { Mlx5Core } from '../core.ts';
import type { DeviceObject } from '../objects.ts';
import { canonical } from './canonical.ts';
import { type ObjectCodec, objectCodecs, partsOf } from './objects.ts';

/**
 * Bytes of an object's record and of each flow group and entry in one, as the records of a card with Linux are when they
 * are packed; only for estimates.
 */
const typicalBytes = { record: 320, part: 140 } as const;
/** Section that tells of an object sent earlier that is no more. */
export const goneSection = 'gone';

export function objectRecord(codec: ObjectCodec, object: DeviceObject): StateRecord {
  return { section: codec.kind, value: canonical({ id: object.id, ...codec.save(object) }) };
}

/** Bytes that the record of `object` takes, about. */
export function recordBytes(codec: ObjectCodec, object: DeviceObject): number {
  return typicalBytes.record + typicalBytes.part * partsOf(codec, object);
}

/** Something that the other side does not know yet; it is noted as sent when it is called for. */
interface Change {
  readonly bytes: number;
  send(): StateRecord;
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
    let bytes = 0;
    for (let at = this.#at; at < this.#first.length; at++) {
      const entry = this.#first[at];
      if (entry !== undefined) bytes += recordBytes(entry.codec, entry.object);
    }
    return bytes;
  }

  dirtyBytes(): number {
    if (this.#at < this.#first.length) return 0;
    let bytes = 0;
    for (const change of this.#changes()) bytes += change.bytes;
    return bytes;
  }

  next(): StateRecord | undefined {
    while (this.#at < this.#first.length) {
      const entry = this.#first[this.#at++];
      if (entry !== undefined && entry.codec.table(this.#core).find(entry.object.id) === entry.object) {
        return this.#send(entry.codec, entry.object);
      }
    }
    for (const change of this.#changes()) return change.send();
    return undefined;
  }

  *final(): Iterable<StateRecord> {
    this.#at = this.#first.length;
    for (const change of this.#changes()) yield change.send();
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

  #gone(codec: ObjectCodec, id: number): StateRecord {
    this.#sent.get(codec)?.delete(id);
    return { section: goneSection, value: { kind: codec.kind, id } };
  }

  *#changes(): Generator<Change> {
    for (const [codec, sent] of this.#sent) {
      const table = codec.table(this.#core);
      for (const id of sent.keys()) {
        if (table.find(id) !== undefined) continue;
        yield { bytes: typicalBytes.record, send: () => this.#gone(codec, id) };
      }
      for (const object of table.values()) {
        const known = sent.get(object.id);
        if (known?.object === object && known.revision === object.revision) continue;
        yield { bytes: recordBytes(codec, object), send: () => this.#send(codec, object) };
      }
    }
  }
}
