/** First in, first out, at the same cost however long it is: taking from the front of an array moves all the others, each time. */
export class Fifo<T> {
  /** Those before `#first` have been taken. */
  #items: (T | undefined)[] = [];
  #first = 0;

  get length(): number {
    return this.#items.length - this.#first;
  }

  /** The one that came last. */
  get last(): T | undefined {
    return this.length > 0 ? this.#items.at(-1) : undefined;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  /** The one that came first, which is no longer there then. */
  take(): T | undefined {
    if (this.length === 0) return undefined;
    const next = this.#items[this.#first];
    this.#items[this.#first++] = undefined;
    // What has been taken goes at once when it is half: each item is moved once at most, however long it is refilled.
    if (2 * this.#first >= this.#items.length) {
      this.#items.splice(0, this.#first);
      this.#first = 0;
    }
    return next;
  }

  dropLast(): void {
    if (this.length > 0) this.#items.pop();
  }

  clear(): void {
    this.#items = [];
    this.#first = 0;
  }
}
