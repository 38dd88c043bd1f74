import { isDeepStrictEqual } from 'node:util';
import { crc32 } from '../../../src/migration/stream/crc32.ts';
import { StreamDecoder } from '../../../src/migration/stream/decoder.ts';
import type { StreamHeader } from '../../../src/migration/stream/format.ts';

const pageSize = 4096;
const zeroPage = new Uint8Array(pageSize);
const zeroSum = crc32(zeroPage);
/** In place of a sum: the page came whole and was then changed in part, so its contents are not known here. */
const unknown = -1;

/** One section's memory: a checksum for each page; the bytes too, of pages that came in parts. */
interface Memory {
  readonly sums: Map<number, number>;
  readonly parts: Map<number, Uint8Array>;
}

/**
 * What a state stream amounts to, whatever way it took: the last value of each section and a checksum of each
 * page of memory. Two streams of the same device in the same state, one with a precopy and one without, have
 * equal summaries. For comparing what was sent with what the destination saves again.
 * Takes the stream in pieces of any size; throws `StateRefused` for a stream that is not intact.
 */
export class StateSummary {
  readonly #decoder: StreamDecoder;
  readonly #values = new Map<string, unknown>();
  readonly #memory = new Map<string, Memory>();
  #header: StreamHeader | undefined;

  constructor() {
    this.#decoder = new StreamDecoder({
      header: (header) => {
        this.#header = header;
        this.#forget();
      },
      value: (section, value) => this.#values.set(section, value),
      bulk: (section, offset, bytes) => this.#bulk(section, offset, bytes),
      restart: () => this.#forget(),
    });
  }

  write(source: Uint8Array): void {
    this.#decoder.write(source);
  }

  get complete(): boolean {
    return this.#decoder.complete;
  }

  get header(): StreamHeader | undefined {
    return this.#header;
  }

  /** Pages of bulk memory that were seen. */
  get pages(): number {
    let count = 0;
    for (const { sums } of this.#memory.values()) count += sums.size;
    return count;
  }

  /** One sentence for each section in which the other differs; empty: the same state. */
  differences(other: StateSummary): string[] {
    const found: string[] = [];
    if (!this.complete || !other.complete) found.push('one of the states is not complete');
    const [mine, theirs] = [this.#header, other.#header];
    for (const key of ['model', 'stateVersion', 'geometry'] as const) {
      if (!isDeepStrictEqual(mine?.[key], theirs?.[key])) found.push(`${key} differs`);
    }
    for (const section of new Set([...this.#values.keys(), ...other.#values.keys()])) {
      const path = firstDifference(this.#values.get(section), other.#values.get(section));
      if (path !== undefined) found.push(`section "${section}" differs${path === '' ? '' : ` at ${path}`}`);
    }
    for (const section of new Set([...this.#memory.keys(), ...other.#memory.keys()])) {
      const pages = differentPages(this.#memory.get(section), other.#memory.get(section));
      const [first] = pages;
      if (first === undefined) continue;
      found.push(`section "${section}" differs in ${pages.length} pages, first at 0x${first.toString(16)}`);
    }
    return found;
  }

  #forget(): void {
    this.#values.clear();
    this.#memory.clear();
  }

  #bulk(section: string, offset: number, bytes: Uint8Array): void {
    const memory: Memory = this.#memory.get(section) ?? { sums: new Map(), parts: new Map() };
    this.#memory.set(section, memory);
    for (let at = 0; at < bytes.length; ) {
      const address = offset + at;
      const inPage = address % pageSize;
      const length = Math.min(pageSize - inPage, bytes.length - at);
      const piece = bytes.subarray(at, at + length);
      const page = address - inPage;
      if (length === pageSize) {
        memory.parts.delete(page);
        memory.sums.set(page, crc32(piece));
      } else {
        this.#part(memory, page, inPage, piece);
      }
      at += length;
    }
  }

  /** What the parts of a page leave out counts as zero: every way to the same state sends it once at least. */
  #part(memory: Memory, page: number, inPage: number, piece: Uint8Array): void {
    const known = memory.parts.get(page);
    if (known === undefined && memory.sums.has(page)) {
      memory.sums.set(page, unknown);
      return;
    }
    const whole = known ?? new Uint8Array(pageSize);
    memory.parts.set(page, whole);
    whole.set(piece, inPage);
    memory.sums.set(page, crc32(whole));
  }
}

function differentPages(mine: Memory | undefined, theirs: Memory | undefined): number[] {
  const pages = new Set([...(mine?.sums.keys() ?? []), ...(theirs?.sums.keys() ?? [])]);
  // A page that one side did not send is one that it knows to be zero.
  const sum = (memory: Memory | undefined, page: number) => memory?.sums.get(page) ?? zeroSum;
  const differs = (page: number) => {
    const [here, there] = [sum(mine, page), sum(theirs, page)];
    return here !== there && here !== unknown && there !== unknown;
  };
  return [...pages].filter(differs).sort((a, b) => a - b);
}

/** Where two values differ first: '' for the whole, 'a.b.3' within; undefined when they are equal. */
function firstDifference(mine: unknown, theirs: unknown): string | undefined {
  if (isDeepStrictEqual(mine, theirs)) return undefined;
  if (!isContainer(mine) || !isContainer(theirs)) return '';
  for (const key of new Set([...Object.keys(mine), ...Object.keys(theirs)])) {
    const inner = firstDifference(mine[key], theirs[key]);
    if (inner !== undefined) return inner === '' ? key : `${key}.${inner}`;
  }
  return '';
}

function isContainer(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value);
}
