/**
 * What the owner of a runtime adds to what an orchestrator can ask of it: things that are neither the
 * model's nor the framework's, such as the network ports that the process has opened.
 */
export interface RuntimeExtension {
  /** Added to the answer of the companion operation `info`. */
  info(): Record<string, unknown>;
  /** The device has come to rest: what it has begun outside of it is to be finished. Part of a blackout. */
  stopped?(): void;
  /** Companion operations by name; requests are hostile until checked. */
  readonly operations: Readonly<Record<string, (request: Readonly<Record<string, unknown>>) => unknown>>;
}
