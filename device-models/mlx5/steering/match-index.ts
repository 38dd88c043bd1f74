import type { Matcher } from './match.ts';

/** What can be found by a frame that it matches. */
export interface Matched {
  readonly index: number;
  readonly matcher: Matcher;
}

/**
 * The entries of one flow group by what they want to see. All of them look at the same bits, so that a frame's are those of
 * every entry that it matches: a look at each one is not needed, of which a guest with all VLANs has four thousand.
 */
export class MatchIndex<E extends Matched> {
  /** Entries of equal hash, the lowest index first. */
  readonly #byHash = new Map<number, E[]>();
  /** Any matcher of the group: it knows the bits. */
  readonly #bits: Matcher;

  constructor(bits: Matcher) {
    this.#bits = bits;
  }

  get empty(): boolean {
    return this.#byHash.size === 0;
  }

  add(entry: E): void {
    const { hash } = entry.matcher;
    const equal = this.#byHash.get(hash);
    if (equal === undefined) {
      this.#byHash.set(hash, [entry]);
      return;
    }
    let at = equal.length;
    while (at > 0 && (equal[at - 1]?.index ?? 0) > entry.index) at--;
    equal.splice(at, 0, entry);
  }

  remove(entry: E): void {
    const { hash } = entry.matcher;
    const equal = this.#byHash.get(hash);
    const at = equal?.indexOf(entry) ?? -1;
    if (equal === undefined || at < 0) return;
    equal.splice(at, 1);
    if (equal.length === 0) this.#byHash.delete(hash);
  }

  /** The entry of lowest index that `packet` matches. */
  first(packet: Uint32Array): E | undefined {
    const equal = this.#byHash.get(this.#bits.hashOf(packet));
    if (equal === undefined) return undefined;
    for (const entry of equal) if (entry.matcher.matches(packet)) return entry;
    return undefined;
  }
}
