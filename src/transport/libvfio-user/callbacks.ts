import koffi from 'koffi';

const context = 'uintptr_t';
/** Prototypes of the callbacks of libvfio-user.h; pointers are plain numbers. */
const prototypes = {
  log: koffi.proto('VfuLog', 'void', [context, 'int', 'str']),
  region: koffi.proto('VfuRegionAccess', 'int64_t', [context, 'uintptr_t', 'size_t', 'int64_t', 'bool']),
  quiesce: koffi.proto('VfuQuiesce', 'int', [context]),
  reset: koffi.proto('VfuReset', 'int', [context, 'int']),
  dma: koffi.proto('VfuDma', 'void', [context, 'uintptr_t']),
  transition: koffi.proto('VfuTransition', 'int', [context, 'int']),
  data: koffi.proto('VfuMigrationData', 'int64_t', [context, 'uintptr_t', 'uint64_t']),
} as const;

export type CallbackKind = keyof typeof prototypes;

/**
 * JavaScript functions that C may call. No exception gets into C: whatever `body` throws goes to `failed`, whose
 * result becomes errno, and C sees -1.
 */
export class CallbackSet {
  readonly #registered: ReturnType<typeof koffi.register>[] = [];
  readonly #failed: (error: unknown) => number;

  /** @param failed takes what a callback threw; returns the errno that C is to see */
  constructor(failed: (error: unknown) => number) {
    this.#failed = failed;
  }

  /** Address of a C function that calls `body`; its context argument is left out. */
  add<A extends unknown[]>(kind: CallbackKind, body: (...args: A) => number): number {
    const guarded = (_context: number, ...args: unknown[]): number => {
      try {
        return body(...(args as A));
      } catch (error) {
        const value = this.#failed(error);
        // Last, so that nothing on the way back to C overwrites it.
        koffi.errno(value);
        return -1;
      }
    };
    const registered = koffi.register(guarded, koffi.pointer(prototypes[kind]));
    this.#registered.push(registered);
    return Number(registered);
  }

  /** Gives all addresses back; C must not call them any more. */
  release(): void {
    for (const registered of this.#registered.splice(0)) koffi.unregister(registered);
  }
}
