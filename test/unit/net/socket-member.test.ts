/** What the switch tells a port, and the frames that it has for it, on a socket that is full. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../../../src/log.ts';
import { type Reactor, ready } from '../../../src/loop/types.ts';
import { RECORD_HEADER, recordKind, recordLength } from '../../../src/net/frame-queue.ts';
import { MAX_DATAGRAM, recordKinds } from '../../../src/net/switch/protocol.ts';
import { SocketMember } from '../../../src/net/switch/socket-member.ts';
import { closeFd, pollFd, type RawArea, rawArea, recvBytes, socketPair } from '../../../src/posix/index.ts';

const limits = { frames: 16, bytes: 64 * 1024 };

let member: SocketMember;
let peer: number;
/** The loop says that the member's socket is ready for this. */
let tell: (readiness: number) => void;
/** What the member wants to be told. */
let interest: number;

beforeEach(() => {
  interest = ready.read;
  const [ours, theirs] = socketPair('seqpacket');
  peer = theirs;
  const reactor = {
    watch: (_fd: number, _events: number, callback: (readiness: number) => void) => {
      tell = callback;
      const modify = (wanted: number) => {
        interest = wanted;
      };
      return { modify, close: () => {} };
    },
  } as unknown as Reactor;
  const events = { datagram: () => expect.fail('a datagram'), closed: () => {} };
  member = new SocketMember(1, ours, limits, rawArea(MAX_DATAGRAM), { reactor, log: silentLogger, events });
  member.state = 'active';
});

afterEach(() => {
  member.disconnect();
  closeFd(peer);
});

const frame: RawArea = rawArea(RECORD_HEADER + 60);
frame.bytes.writeUInt32BE(60);

const deliver = () => member.deliver(frame, 0, RECORD_HEADER + 60);

/** Frames and notices in the order in which they were sent. */
function readAll(): string[] {
  const found: string[] = [];
  while ((pollFd(peer, ready.read, 0) & ready.read) !== 0) {
    const bytes = Buffer.alloc(MAX_DATAGRAM);
    const end = recvBytes(peer, bytes, 0, bytes.length, false);
    for (let at = 0; at < end; at += RECORD_HEADER + recordLength(bytes, at)) {
      const body = bytes.subarray(at + RECORD_HEADER, at + RECORD_HEADER + recordLength(bytes, at));
      const isFrame = recordKind(bytes, at) === recordKinds.frame;
      found.push(isFrame ? 'frame' : (JSON.parse(body.toString()) as { op: string }).op);
    }
  }
  return found;
}

/** Notices until the socket takes no more: the last one waits, and one more. */
function fill(): void {
  while ((interest & ready.write) === 0) member.notify({ op: 'link', up: true });
  member.notify({ op: 'parked' });
}

const waiting = ['link', 'parked'];

test('a notice that waits goes before a frame that comes when there is room', () => {
  fill();
  expect(new Set(readAll())).toEqual(new Set(['link']));
  deliver();
  expect(readAll()).toEqual([...waiting, 'frame']);
  // The loop, which still thinks that something waits, finds nothing.
  tell(ready.write);
  expect(interest).toBe(ready.read);
  expect(readAll()).toEqual([]);
});

test('a notice that waits goes before a frame that waits as well', () => {
  fill();
  deliver();
  expect(member.queue.frames).toBe(1);
  readAll();
  tell(ready.write);
  expect(readAll()).toEqual([...waiting, 'frame']);
  expect(member.stats).toMatchObject({ outFrames: 1, dropped: 0 });
});
