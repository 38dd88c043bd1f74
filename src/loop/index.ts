/** The device loop: descriptors, timers and deferred tasks on one thread, beside Node's own loop. */
export { createReactor } from './reactor.ts';
export { type Reactor, ready } from './types.ts';
