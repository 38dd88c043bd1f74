import { expect, it } from 'vitest';
import { quietEngine } from '../../../src/engine.ts';
import { NodeService } from '../../../src/loop/node-service.ts';

/** How long the device loop may wait after the first callback of a burst, ns: Node gets its turn then. */
function waitInBurst(): Promise<number> {
  return new Promise((resolve) => {
    let served = false;
    let wait = Number.NaN;
    const node = new NodeService(
      (timeoutNs) => {
        if (served) {
          wait = timeoutNs;
          node.stop();
        }
        // The first round is one for Node's own sake, which may not wait.
        served = timeoutNs !== 0;
        return served;
      },
      () => resolve(wait),
    );
    node.start();
  });
}

it('lets the device loop wait ten times as long in a burst while the engine is quiet', async () => {
  expect(await waitInBurst()).toBe(1e6);
  const wake = quietEngine();
  try {
    expect(await waitInBurst()).toBe(10e6);
  } finally {
    wake();
  }
  expect(await waitInBurst()).toBe(1e6);
});
