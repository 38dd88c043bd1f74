import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createReactor, type Reactor, ready } from '../../../src/loop/index.ts';
import {
  closeFd,
  eventfdCreate,
  eventfdDrain,
  eventfdSignal,
  sendMessage,
  socketPair,
} from '../../../src/posix/index.ts';

const MS = 1e6;
let reactor: Reactor;
let errors: unknown[];
let fds: number[];
beforeEach(() => {
  errors = [];
  fds = [];
  reactor = createReactor({ onError: (error) => errors.push(error) });
});
afterEach(() => {
  reactor.close();
  for (const fd of fds) closeFd(fd);
});
const event = () => {
  const fd = eventfdCreate();
  fds.push(fd);
  return fd;
};

describe('watching', () => {
  it('calls back as long as a descriptor is ready', () => {
    const fd = event();
    const seen: number[] = [];
    reactor.watch(fd, ready.read, (readiness) => seen.push(readiness));
    reactor.turn(0);
    expect(seen).toEqual([]);
    eventfdSignal(fd);
    reactor.turn(-1);
    reactor.turn(-1);
    eventfdDrain(fd);
    reactor.turn(0);
    expect(seen).toEqual([ready.read, ready.read]);
  });

  it('reports writing and hang-up, and what modify asks for', () => {
    const [a, b] = socketPair();
    fds.push(a);
    const seen: number[] = [];
    const watch = reactor.watch(a, ready.write, (readiness) => seen.push(readiness));
    reactor.turn(-1);
    watch.modify(ready.read);
    reactor.turn(0);
    sendMessage(b, Buffer.from('x'), 1, undefined, undefined, false);
    reactor.turn(-1);
    watch.modify(0);
    closeFd(b);
    reactor.turn(0);
    watch.modify(ready.write);
    reactor.turn(-1);
    expect(seen).toEqual([ready.write, ready.read, ready.write | ready.hangup]);
  });

  it('does not call a watch that was closed or paused earlier in the same round', () => {
    const [one, two] = [event(), event()];
    const seen: string[] = [];
    const first = reactor.watch(one, ready.read, () => {
      seen.push('one');
      second.close();
    });
    const second = reactor.watch(two, ready.read, () => {
      seen.push('two');
      first.modify(0);
    });
    eventfdSignal(one);
    eventfdSignal(two);
    reactor.turn(-1);
    expect(seen).toHaveLength(1);
    reactor.turn(0);
    expect(seen.length).toBeLessThanOrEqual(2);
  });

  it('tells a reused descriptor number from its predecessor', () => {
    const fd = eventfdCreate();
    const stale = reactor.watch(fd, ready.read, () => seen.push('stale'));
    const seen: string[] = [];
    closeFd(fd);
    const reused = event();
    expect(reused).toBe(fd);
    reactor.watch(reused, ready.read, () => seen.push('new'));
    stale.close();
    stale.modify(ready.read);
    eventfdSignal(reused);
    reactor.turn(-1);
    expect(seen).toEqual(['new']);
  });

  it('may be closed, with the descriptor reused, from inside its own callback', () => {
    const fd = eventfdCreate();
    const seen: string[] = [];
    const watch = reactor.watch(fd, ready.read, () => {
      watch.close();
      closeFd(fd);
      const next = event();
      reactor.watch(next, ready.read, () => {
        eventfdDrain(next);
        seen.push('next');
      });
      eventfdSignal(next);
    });
    eventfdSignal(fd);
    reactor.turn(-1);
    reactor.turn(-1);
    reactor.turn(0);
    expect(seen).toEqual(['next']);
  });

  it('refuses what can’t be watched, and forgets it', () => {
    expect(() => reactor.watch(-1, ready.read, () => {})).toThrow('EBADF');
  });

  it('serves more descriptors than one wait collects', () => {
    const all = Array.from({ length: 150 }, event);
    const seen = new Set<number>();
    for (const fd of all) {
      eventfdSignal(fd);
      reactor.watch(fd, ready.read, () => {
        eventfdDrain(fd);
        seen.add(fd);
      });
    }
    while (seen.size < all.length) reactor.turn(-1);
  });
});

describe('exceptions', () => {
  it('go to the callback’s own handler, else to the reactor’s, and harm nobody else', () => {
    const own: unknown[] = [];
    const fd = event();
    eventfdSignal(fd);
    const fail = (what: string) => () => {
      throw new Error(what);
    };
    reactor.watch(fd, ready.read, fail('watch'), (error) => own.push(error));
    reactor.timer(fail('timer')).arm(0);
    reactor.defer(fail('task'));
    reactor.defer(() => own.push('after'));
    reactor.turn(-1);
    reactor.turn(-1);
    expect(errors.map(String)).toEqual(['Error: timer', 'Error: task']);
    expect(own.map(String)).toContain('Error: watch');
    expect(own).toContain('after');
  });
});

describe('timers', () => {
  it('fire in order of their deadlines, then of arming', () => {
    const seen: number[] = [];
    const delays = [3, 1, 2, 1, 3, 0];
    // Between two of them this process may be kept waiting for longer than they are apart.
    const clock = vi.spyOn(reactor, 'now').mockReturnValue(reactor.now());
    delays.forEach((delay, index) => {
      reactor.timer(() => seen.push(index)).arm(delay * MS);
    });
    clock.mockRestore();
    while (seen.length < delays.length) reactor.turn(-1);
    expect(seen).toEqual([5, 1, 3, 2, 0, 4]);
  });

  it('are re-armed, cancelled and closed', () => {
    const seen: string[] = [];
    const again = reactor.timer(() => {
      seen.push('again');
      if (seen.length < 3) again.arm(0);
    });
    const cancelled = reactor.timer(() => seen.push('cancelled'));
    const closed = reactor.timer(() => seen.push('closed'));
    again.arm(1e15);
    again.arm(0);
    cancelled.arm(0);
    closed.arm(0);
    cancelled.cancel();
    closed.close();
    closed.arm(0);
    expect([again.armed, cancelled.armed, closed.armed]).toEqual([true, false, false]);
    for (let round = 0; round < 5; round += 1) reactor.turn(0);
    expect(seen).toEqual(['again', 'again', 'again']);
    expect(again.armed).toBe(false);
    expect(() => again.arm(Number.NaN)).toThrow(RangeError);
    expect(() => again.arm(-1)).toThrow(RangeError);
  });

  it('do not keep descriptors waiting by re-arming themselves', () => {
    const fd = event();
    eventfdSignal(fd);
    let served = false;
    const busy = reactor.timer(() => busy.arm(0));
    busy.arm(0);
    reactor.watch(fd, ready.read, () => {
      served = true;
    });
    reactor.turn(0);
    expect(served).toBe(true);
  });

  it('never fire early', () => {
    let firedAt = 0;
    const timer = reactor.timer(() => {
      firedAt = reactor.now();
    });
    const armedAt = reactor.now();
    timer.arm(300_000);
    while (firedAt === 0) reactor.turn(-1);
    expect(firedAt - armedAt).toBeGreaterThanOrEqual(300_000);
  });
});

describe('deferred tasks', () => {
  it('run after the callback that deferred them, before the next callback', () => {
    const seen: string[] = [];
    for (const name of ['a', 'b']) {
      const fd = event();
      eventfdSignal(fd);
      reactor.watch(fd, ready.read, () => {
        eventfdDrain(fd);
        reactor.defer(() => {
          seen.push(`${name}1`);
          reactor.defer(() => seen.push(`${name}3`));
        });
        reactor.defer(() => seen.push(`${name}2`));
        seen.push(name);
      });
    }
    reactor.turn(-1);
    expect(seen).toEqual(['a', 'a1', 'a2', 'b', 'a3', 'b1', 'b2']);
    // Does not sleep: a task is left.
    reactor.turn(-1);
    expect(seen.at(-1)).toBe('b3');
  });

  it('let descriptors come between a task and the one that it defers, without a sleep', () => {
    const fd = event();
    const seen: string[] = [];
    const work = (left: number) => {
      seen.push('work');
      if (left > 0) reactor.defer(() => work(left - 1));
    };
    reactor.watch(fd, ready.read, () => {
      eventfdDrain(fd);
      seen.push('event');
    });
    eventfdSignal(fd);
    reactor.defer(() => work(9));
    reactor.turn(-1);
    expect(seen).toEqual(['work', 'event', 'work']);
    for (let round = 0; round < 8; round += 1) reactor.turn(-1);
    expect(seen.filter((what) => what === 'work')).toHaveLength(10);
  });

  it('are followed at once by what must not be overtaken', () => {
    const fd = event();
    const seen: string[] = [];
    reactor.watch(fd, ready.read, () => {
      eventfdDrain(fd);
      seen.push('event');
    });
    eventfdSignal(fd);
    reactor.defer(() => {
      seen.push('first');
      reactor.defer(() => seen.push('later'));
      reactor.follow(() => seen.push('followed'));
      reactor.follow(() => {
        throw new Error('follower');
      });
    });
    reactor.defer(() => seen.push('second'));
    reactor.turn(-1);
    expect(seen).toEqual(['first', 'followed', 'second', 'event', 'later']);
    expect(errors.map(String)).toEqual(['Error: follower']);
    reactor.follow(() => seen.push('alone'));
    reactor.turn(-1);
    expect(seen.at(-1)).toBe('alone');
  });

  it('that breed without end do not starve descriptors, and none is lost', () => {
    const fd = event();
    let served = 0;
    let bred = 0;
    const breed = () => {
      bred += 1;
      if (bred < 5000) reactor.defer(breed);
    };
    reactor.watch(fd, ready.read, () => {
      eventfdDrain(fd);
      served = bred;
    });
    eventfdSignal(fd);
    breed();
    reactor.turn(-1);
    expect(served).toBeGreaterThan(0);
    expect(served).toBeLessThan(5000);
    while (bred < 5000) reactor.turn(-1);
    let last = 0;
    for (let index = 1; index <= 5000; index += 1)
      reactor.defer(() => {
        expect(index).toBe(last + 1);
        last = index;
      });
    while (last < 5000) reactor.turn(-1);
    expect(errors).toEqual([]);
  });
});

describe('busy-waiting', () => {
  it('polls once short gaps have been seen, and never when it is off', () => {
    for (const busyWaitNs of [0, 1e9]) {
      const loop = createReactor({ busyWaitNs });
      const fd = event();
      let events = 0;
      let polls = 0;
      loop.watch(fd, ready.read, () => {
        eventfdDrain(fd);
        events += 1;
      });
      loop.poller(() => {
        polls += 1;
        // Work that arrives during the wait.
        if (polls === 5) eventfdSignal(fd);
        return false;
      });
      eventfdSignal(fd);
      loop.turn(-1);
      expect(polls).toBe(0);
      if (busyWaitNs === 0) eventfdSignal(fd);
      loop.turn(-1);
      expect(events).toBe(2);
      expect(polls > 0).toBe(busyWaitNs > 0);
      loop.close();
    }
  });

  it('polls at once, without evidence, when it is told to in any case', () => {
    for (const busyWaitAlways of [false, true]) {
      const loop = createReactor({ busyWaitNs: 1e9, busyWaitAlways });
      const fd = event();
      let polls = 0;
      loop.watch(fd, ready.read, () => eventfdDrain(fd));
      loop.poller(() => {
        polls += 1;
        if (polls === 5) eventfdSignal(fd);
        return false;
      });
      // Without busy-waiting the loop would sleep: it has its event.
      if (!busyWaitAlways) eventfdSignal(fd);
      loop.turn(-1);
      expect(polls > 0).toBe(busyWaitAlways);
      loop.close();
    }
  });

  it('serves descriptors although a poller always finds work, and stops polling what is closed', () => {
    const loop = createReactor({ busyWaitNs: 1e9, onError: (error) => errors.push(error) });
    const fd = event();
    let events = 0;
    loop.watch(fd, ready.read, () => {
      events += 1;
    });
    eventfdSignal(fd);
    loop.turn(-1);
    let polls = 0;
    const poller = loop.poller(() => {
      polls += 1;
      return true;
    });
    for (let round = 0; round < 100; round += 1) loop.turn(-1);
    expect(events).toBeGreaterThan(2);
    // How often depends on how slow the machine is: descriptors are looked at after so much time, too.
    expect(polls).toBeGreaterThan(5);
    poller.modify(0);
    const before = polls;
    loop.turn(-1);
    poller.modify(ready.read);
    poller.close();
    poller.modify(ready.read);
    loop.turn(-1);
    expect(polls).toBe(before);
    loop.close();
  });
});

describe('misuse', () => {
  it('is refused: turning from inside, running twice, running once closed', async () => {
    reactor.defer(() => reactor.turn(0));
    reactor.turn(0);
    expect(String(errors[0])).toContain('from inside');
    const running = reactor.run();
    await expect(reactor.run()).rejects.toThrow('runs already');
    reactor.stop();
    await running;
    reactor.close();
    reactor.close();
    await expect(reactor.run()).rejects.toThrow('closed');
  });

  it('closing from inside a callback ends the round', () => {
    const loop = createReactor();
    const seen: string[] = [];
    for (const fd of [event(), event()]) {
      eventfdSignal(fd);
      loop.watch(fd, ready.read, () => {
        seen.push('called');
        loop.close();
      });
    }
    loop.turn(-1);
    loop.turn(-1);
    expect(seen).toEqual(['called']);
  });
});
