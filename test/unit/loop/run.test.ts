import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { MessageChannel } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { createReactor, type Reactor, ready } from '../../../src/loop/index.ts';
import { closeFd, eventfdCreate, eventfdSignal } from '../../../src/posix/index.ts';

/** Runs a reactor while `use` is under way. */
async function running<T>(use: (reactor: Reactor) => Promise<T>): Promise<T> {
  const reactor = createReactor();
  const run = reactor.run();
  try {
    return await use(reactor);
  } finally {
    reactor.stop();
    await run;
    reactor.close();
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('while the device loop runs, Node', () => {
  it('has its timers, immediates, ticks and promises served', () =>
    running(async () => {
      await sleep(5);
      await new Promise(setImmediate);
      await new Promise<void>((resolve) => process.nextTick(resolve));
      await Promise.resolve();
      await sleep(1);
    }));

  it('has signals served', () =>
    running(async () => {
      const got = once(process, 'SIGUSR2');
      await sleep(1);
      process.kill(process.pid, 'SIGUSR2');
      await got;
    }));

  it('has sockets, file work and messages served', () =>
    running(async () => {
      const server = createServer((socket) => socket.pipe(socket));
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const address = server.address();
      if (address === null || typeof address === 'string') throw new Error('no port');
      const client = createConnection(address.port, '127.0.0.1');
      client.write('ping');
      const [data] = await once(client, 'data');
      expect(String(data)).toBe('ping');
      client.end();
      await once(client, 'close');
      server.close();
      await once(server, 'close');
      const { port1, port2 } = new MessageChannel();
      port2.postMessage('hello');
      const [message] = await once(port1, 'message');
      expect(message).toBe('hello');
      port1.close();
    }));

  it('gets what device callbacks leave for it: ticks, promises, immediates, timers', () =>
    running(async (reactor) => {
      const seen: string[] = [];
      await new Promise<void>((resolve) => {
        const done = (what: string) => {
          seen.push(what);
          if (seen.length === 4) resolve();
        };
        reactor
          .timer(() => {
            process.nextTick(done, 'tick');
            Promise.resolve('promise').then(done);
            setImmediate(done, 'immediate');
            setTimeout(done, 1, 'timeout');
          })
          .arm(1e6);
      });
      expect(seen.sort()).toEqual(['immediate', 'promise', 'tick', 'timeout']);
    }));

  it('gets its turns although the device loop is busy without a pause, and the other way round', () =>
    running(async (reactor) => {
      const fd = eventfdCreate();
      eventfdSignal(fd);
      let calls = 0;
      const watch = reactor.watch(fd, ready.read, () => {
        calls += 1;
      });
      // The first one may come before Node has looked at its descriptors at all.
      await new Promise(setImmediate);
      // However few calls fit into one turn on a machine with much to do: each turn leaves room for more.
      for (let turns = 0; turns < 20; turns += 1) {
        const before = calls;
        await new Promise(setImmediate);
        await sleep(1);
        expect(calls).toBeGreaterThan(before);
      }
      watch.close();
      closeFd(fd);
    }));
});

describe('run', () => {
  it('sleeps when nothing happens', () =>
    running(async () => {
      const before = process.cpuUsage();
      await sleep(150);
      const used = process.cpuUsage(before);
      // A loop that never slept would have used all 150 ms.
      expect(used.user + used.system).toBeLessThan(75_000);
    }));

  it('stops from a device callback, can run again, and leaves no descriptor', async () => {
    await running(async () => {});
    const before = readdirSync('/proc/self/fd').length;
    const reactor = createReactor();
    for (let times = 0; times < 3; times += 1) {
      reactor.defer(() => reactor.stop());
      await reactor.run();
    }
    reactor.close();
    await new Promise(setImmediate);
    expect(readdirSync('/proc/self/fd').length).toBe(before);
  });
});
