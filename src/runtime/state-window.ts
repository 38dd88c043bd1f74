import type { ServedMigration } from '../transport/served-device.ts';
import { SharedWindow, type WindowPlace } from './shared-window.ts';

/** Largest window. */
const maxSize = 64 * 1024 * 1024;
/** State is loaded in pieces of this size; small enough to stay in a CPU's cache between its two passes. */
const pieceSize = 512 * 1024;

/**
 * Memory that the orchestrator shares with a device's server, for state to travel through instead of the migration
 * socket: MIG_DATA_READ and MIG_DATA_WRITE with the data left where both see it. The same memory given to
 * source and destination spares four copies. The orchestrator asks for each piece, as it does on the socket.
 */
export class StateWindow {
  readonly #window = new SharedWindow('state window', maxSize);
  /** Holds what is being loaded: the window may change under the loader's checks. */
  #piece: Buffer | undefined;

  /** See `SharedWindow.open`. */
  open(place: WindowPlace): void {
    this.close();
    this.#window.open(place);
  }

  close(): void {
    this.#window.close();
    this.#piece = undefined;
  }

  /** As MIG_DATA_READ, into the window at `offset`; returns the bytes read. */
  read(migration: ServedMigration, offset: number, length: number): number {
    return migration.read(this.#window.range(offset, length));
  }

  /** As MIG_DATA_WRITE, from the window. */
  write(migration: ServedMigration, offset: number, length: number): void {
    const bytes = this.#window.range(offset, length);
    this.#piece ??= Buffer.allocUnsafeSlow(pieceSize);
    for (let at = 0; at < length; at += pieceSize) {
      const piece = this.#piece.subarray(0, Math.min(pieceSize, length - at));
      bytes.copy(piece, 0, at);
      migration.write(piece);
    }
  }
}
