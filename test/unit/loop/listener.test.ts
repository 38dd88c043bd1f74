import { existsSync, mkdtempSync, rmSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../../../src/log.ts';
import { createReactor, type Reactor } from '../../../src/loop/index.ts';
import { Listener } from '../../../src/loop/listener.ts';
import { TimerQueue } from '../../../src/loop/timers.ts';
import { closeFd, connectUnix, listenUnix, socketPair } from '../../../src/posix/index.ts';

let directory: string;
let reactor: Reactor;
const errors: unknown[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vc-listener-'));
  errors.length = 0;
  reactor = createReactor({ busyWaitNs: 0, onError: (error) => errors.push(error) });
});
afterEach(() => {
  reactor.close();
  rmSync(directory, { recursive: true });
  expect(errors).toEqual([]);
});
const path = () => join(directory, 'socket');
const listen = (accepted = closeFd) =>
  new Listener(listenUnix(path()), { reactor, log: silentLogger, path: path(), accepted });

test('removes its file, and not that of a successor', () => {
  const first = listen();
  unlinkSync(path());
  const second = listen();
  first.close();
  expect(existsSync(path())).toBe(true);
  closeFd(connectUnix(path()));
  second.close();
  second.close();
  expect(existsSync(path())).toBe(false);
});

test('takes all who come, a few a turn', () => {
  let accepted = 0;
  const listener = listen((fd) => {
    accepted++;
    closeFd(fd);
  });
  const clients = Array.from({ length: 17 }, () => connectUnix(path()));
  reactor.turn(0);
  expect(accepted).toBe(16);
  reactor.turn(0);
  expect(accepted).toBe(17);
  for (const fd of clients) closeFd(fd);
  listener.close();
});

test('after a failure it pauses, so that the loop is not kept busy with it, and tries again', () => {
  const told: unknown[] = [];
  const log = {
    ...silentLogger,
    error: (about: unknown) => told.push(about),
  } as unknown as typeof silentLogger;
  let now = 0;
  const timers = new TimerQueue(() => now);
  // No socket that listens, so that accept fails; and one that is always ready, for the other end has gone.
  const [fd, other] = socketPair();
  closeFd(other);
  const listener = new Listener(fd, {
    reactor: { watch: reactor.watch.bind(reactor), timer: timers.create.bind(timers) } as unknown as Reactor,
    log,
    accepted: closeFd,
  });
  for (let turn = 0; turn < 20; turn++) reactor.turn(0);
  expect(told.length).toBe(1);
  now += timers.next() ?? expect.fail('nothing is to go on later');
  timers.runDue();
  reactor.turn(0);
  expect(told.length).toBe(2);
  listener.close();
  expect(timers.next()).toBeUndefined();
});
