/** The device loop: descriptors, timers and deferred tasks on one thread, beside Node's own loop. */
export { createReactor, type ReactorOptions } from './reactor.ts';
export { type ErrorHandler, type Reactor, ready, type Timer, type Watch } from './types.ts';
