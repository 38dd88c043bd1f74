/** Up to this many bytes a loop beats the set-up of a native copy (measured on Node 20: break-even near 20). */
const LOOP_LIMIT = 16;

/** Fills `target` from `bytes` at `at`. The range is within `bytes`. */
export function copyFrom(bytes: Uint8Array, at: number, target: Uint8Array): void {
  const length = target.length;
  if (length > LOOP_LIMIT) target.set(bytes.subarray(at, at + length));
  else for (let index = 0; index < length; index += 1) target[index] = bytes[at + index] ?? 0;
}

/** Copies `source` into `bytes` at `at`. The range is within `bytes`. */
export function copyTo(bytes: Uint8Array, at: number, source: Uint8Array): void {
  const length = source.length;
  if (length > LOOP_LIMIT) bytes.set(source, at);
  else for (let index = 0; index < length; index += 1) bytes[at + index] = source[index] ?? 0;
}
