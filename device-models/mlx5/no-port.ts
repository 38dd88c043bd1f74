import type { NetPort } from '../../src/net/types.ts';

/** A cable that leads to nobody: the link is up, frames vanish. */
export function noPort(): NetPort {
  return {
    offloads: false,
    linkUp: true,
    send: () => true,
    receive: () => {},
    ready: () => {},
    onLink: () => {},
    activate: () => {},
    announce: () => {},
    close: () => {},
  };
}
