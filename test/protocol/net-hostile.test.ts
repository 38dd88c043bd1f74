import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ready } from '../../src/loop/index.ts';
import { NonePort } from '../../src/net/none.ts';
import { askSwitch } from '../../src/net/switch/tool.ts';
import { closeFd, connectUnix, pollFd, recvBytes, sendMessage } from '../../src/posix/index.ts';
import { mac, NetWorld, numbered } from './net-world.ts';

let world: NetWorld;
beforeEach(() => {
  world = new NetWorld();
});
afterEach(() => world.close());

function record(kind: number, body: Uint8Array, length = body.length): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt32BE(kind * 2 ** 24 + length);
  return Buffer.concat([header, body]);
}
const control = (message: unknown) => record(2, Buffer.from(JSON.stringify(message)));
const hello = control({ op: 'hello', version: 1 });

/** A client made by hand. */
class Raw {
  readonly fd: number;
  constructor() {
    this.fd = connectUnix(world.path('sw'), 'seqpacket');
    world.onClose(() => closeFd(this.fd));
  }
  send(datagram: Buffer): void {
    try {
      sendMessage(this.fd, datagram, datagram.length, undefined, undefined, false);
    } catch {
      // Disconnected already.
    }
  }
  /** Whether the switch has hung up. */
  get refused(): boolean {
    if ((pollFd(this.fd, ready.read, 0) & ready.hangup) !== 0) return true;
    return false;
  }
  answers(): string[] {
    const found: string[] = [];
    const buffer = Buffer.alloc(65536);
    while ((pollFd(this.fd, ready.read, 0) & ready.read) !== 0) {
      const length = recvBytes(this.fd, buffer, 0, buffer.length, false);
      if (length <= 0) break;
      found.push(buffer.subarray(4, length).toString());
    }
    return found;
  }
}

describe('hostile clients of the switch', () => {
  const valid = { frame: record(0, numbered(mac(1), mac(2), 0)) };

  test.each<[string, Buffer[]]>([
    ['frames before the hello', [valid.frame]],
    ['a record header cut off', [hello, Buffer.from([0, 0, 0])]],
    ['a record that goes beyond its datagram', [hello, record(0, Buffer.alloc(60), 61)]],
    ['a record longer than any frame', [hello, record(0, Buffer.alloc(60), 0xffffff)]],
    ['a record of unknown kind', [hello, record(3, Buffer.alloc(60))]],
    ['control that is no JSON', [hello, record(2, Buffer.from('{'))]],
    ['control that is no object', [hello, control('hello')]],
    ['control that is null', [hello, control(null)]],
    ['an unknown request', [hello, control({ op: 'reboot' })]],
    ['a request named like a property of every object', [hello, control({ op: 'constructor' })]],
    ['a request without its field', [hello, control({ op: 'announce' })]],
    ['no MAC address', [hello, control({ op: 'announce', mac: '1:2:3' })]],
    ['an identity that is a number', [control({ op: 'hello', version: 1, identity: 7 })]],
    ['an endless identity', [control({ op: 'hello', version: 1, identity: 'x'.repeat(129) })]],
    ['another protocol version', [control({ op: 'hello', version: 2 })]],
    ['a second hello', [hello, hello]],
    ['parking before the hello', [control({ op: 'park' })]],
    ['frames returned without parking', [hello, record(1, numbered(mac(1), mac(2), 0))]],
    ['control that is too long', [hello, record(2, Buffer.alloc(3000, 0x20))]],
    ['deeply nested JSON', [hello, record(2, Buffer.from(`${'['.repeat(1000)}`))]],
  ])('%s: disconnected, the others go on', async (_, datagrams) => {
    const network = world.makeSwitch();
    const [a] = await world.joined(network);
    const [, boxB] = await world.joined(network);
    const raw = new Raw();
    for (const datagram of datagrams) raw.send(datagram);
    await world.until(() => raw.refused);
    expect(network.stats.ports.length).toBe(2);
    a.send([numbered(mac(9), mac(8), 5)], 64);
    await world.until(() => boxB.sequences.includes(5));
  });

  test('the control group: a client that keeps to the rules is not disconnected', async () => {
    const network = world.makeSwitch();
    const raw = new Raw();
    for (const datagram of [hello, valid.frame, control({ op: 'announce', mac: '52:54:00:00:00:09' })])
      raw.send(datagram);
    raw.send(Buffer.concat([valid.frame, control({ op: 'stats' }), valid.frame]));
    await world.until(() => network.stats.ports[0]?.inFrames === 3);
    expect(raw.refused).toBe(false);
    const answers = raw.answers();
    expect(answers[0]).toContain('"op":"welcome"');
    expect(answers.some((text) => text.includes('"op":"stats"'))).toBe(true);
  });

  test('one that asks and never reads is disconnected, and holds no memory', async () => {
    const network = world.makeSwitch();
    const raw = new Raw();
    raw.send(hello);
    await world.until(() => network.stats.ports.length === 1);
    const many = Buffer.concat(Array.from({ length: 50 }, () => control({ op: 'stats' })));
    for (let n = 0; n < 2000 && network.stats.ports.length === 1; n++) {
      raw.send(many);
      world.reactor.turn(0);
    }
    await world.until(() => network.stats.ports.length === 0);
  });

  test('random datagrams never harm the switch', async () => {
    const network = world.makeSwitch();
    const [a] = await world.joined(network);
    const [, boxB] = await world.joined(network);
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes)),
      fc
        .tuple(fc.integer({ min: 0, max: 3 }), fc.uint8Array({ maxLength: 80 }))
        .map(([k, b]) => record(k, b)),
      fc.constantFrom(
        hello,
        valid.frame,
        ...['park', 'returned', 'activate', 'standby'].map((op) => control({ op })),
      ),
    );
    fc.assert(
      fc.property(fc.array(fc.array(piece, { maxLength: 4 }), { maxLength: 6 }), (datagrams) => {
        const fd = connectUnix(world.path('sw'), 'seqpacket');
        try {
          for (const parts of datagrams) {
            const datagram = Buffer.concat(parts);
            if (datagram.length > 0) sendMessage(fd, datagram, datagram.length, undefined, undefined, false);
            world.reactor.turn(0);
          }
        } catch {
          // Hung up on.
        } finally {
          closeFd(fd);
        }
        world.reactor.turn(0);
        world.reactor.turn(0);
      }),
      { numRuns: 150 },
    );
    await world.settle();
    boxB.frames = [];
    a.send([numbered(mac(9), mac(8), 5)], 64);
    await world.until(() => boxB.frames.length === 1);
    expect(world.errors).toEqual([]);
  });

  test('one that says more for every word that is heard does not hold the switch up when its place is taken', async () => {
    const network = world.makeSwitch();
    const raw = new Raw();
    const named = control({ op: 'hello', version: 1, identity: 'nic0' });
    raw.send(named);
    const most = 20_000;
    let heard = 0;
    class Echo extends NonePort {
      override send(): boolean {
        if (++heard < most) raw.send(valid.frame);
        return true;
      }
    }
    network.addUplink(new Echo(world), 'echo');
    await world.until(() => network.stats.ports.some(({ identity }) => identity === 'nic0'));
    const successor = new Raw();
    successor.send(named);
    await world.until(() => network.stats.ports.length === 3);
    successor.send(control({ op: 'activate' }));
    raw.send(valid.frame);
    await world.until(() => network.stats.ports.some(({ port, state }) => port === 2 && state === 'active'));
    expect(heard).toBeLessThan(most);
  });

  test('ports that are parked and left pile up to a bound', async () => {
    const most = 4;
    const network = world.makeSwitch({ maxPorts: most });
    for (let times = 0; times < 3 * most; times += 1) {
      const fd = connectUnix(world.path('sw'), 'seqpacket');
      const datagram = Buffer.concat([hello, control({ op: 'park' }), control({ op: 'returned' })]);
      sendMessage(fd, datagram, datagram.length, undefined, undefined, false);
      await world.settle();
      closeFd(fd);
      await world.settle();
    }
    expect(network.stats.ports).toHaveLength(most);
    expect(network.stats.ports.every(({ state }) => state === 'parked')).toBe(true);
    const [a] = await world.joined(network);
    const [, boxB] = await world.joined(network);
    a.send([numbered(mac(9), mac(8), 5)], 64);
    await world.until(() => boxB.sequences.includes(5));
  });

  test('a tool may ask and pull cables without being a port', async () => {
    const network = world.makeSwitch();
    const [a] = await world.joined(network, { name: 'vm' });
    const raw = new Raw();
    raw.send(control({ op: 'setLink', port: 'vm', up: false }));
    await world.until(() => !a.linkUp);
    raw.send(control({ op: 'setLink', port: 'nobody', up: false }));
    await world.until(() => raw.answers().some((text) => text.includes('no port \\"nobody\\"')));
    expect(network.stats.ports.length).toBe(1);
    expect(() => askSwitch(world.path('elsewhere'), { op: 'stats' })).toThrow(/no switch/);
  });
});
