import { readdirSync } from 'node:fs';
import { errno } from '../../src/errors.ts';
import { silentLogger } from '../../src/log.ts';
import { createReactor } from '../../src/loop/index.ts';
import { closeFd, memfdCreate, recvMessage, sendMessage, socketPair } from '../../src/posix/index.ts';
import { NativeServer } from '../../src/transport/native/index.ts';
import { defaultOffer, formatCapabilities } from '../../src/vfio-user/capabilities.ts';
import { command, headerFlags } from '../../src/vfio-user/constants.ts';
import { encodeRequest, messageOf, messages, readHeader } from '../../src/vfio-user/messages.ts';
import { FakeDevice, FakeMigration } from '../protocol/fake-device.ts';
import type { FuzzMessage } from './generate.ts';

const knownErrors = new Set<number>(Object.values(errno));
/** As many bytes as are sent before the server gets a turn: below what the kernel buffers. */
const batchBytes = 16 * 1024;

export const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

/** A native server that is talked to in raw bytes; checks what it says. */
export class FuzzTarget {
  readonly reactor = createReactor({ busyWaitNs: 0 });
  readonly device = new FakeDevice(new FakeMigration());
  readonly #server: NativeServer;
  readonly #file = memfdCreate('fuzz', 65536);
  readonly #incoming = Buffer.alloc(4 * 1024 * 1024);
  #filled = 0;
  #peer: number | undefined;
  #unsent = 0;
  /** Messages sent, replies seen. */
  sent = 0;
  answered = 0;

  constructor(role: 'device' | 'migration' = 'device') {
    this.#server = new NativeServer({
      reactor: this.reactor,
      device: this.device,
      role,
      log: silentLogger,
      companion: () => 'done',
    });
  }

  /** Sends a message on the present connection, or on a new one. */
  send({ bytes, fds }: FuzzMessage): void {
    const peer = this.#peer ?? this.#connect();
    sendMessage(peer, bytes, bytes.length, undefined, Array(fds).fill(this.#file), true);
    this.sent += 1;
    this.#unsent += bytes.length + 512;
    if (this.#unsent >= batchBytes) this.settle();
  }

  /** Lets the server answer everything, and checks the answers. */
  settle(): void {
    this.#unsent = 0;
    for (let i = 0; i < 4; i++) {
      for (let round = 0; round < 4; round++) this.reactor.turn(0);
      if (!this.#receive()) return;
    }
  }

  /** Whether a well-behaved client is served, on this connection or, after `hangUp`, the next. */
  alive(): boolean {
    this.settle();
    const peer = this.#peer ?? this.#connect();
    const { spec, value } = { spec: messages.REGION_READ, value: { offset: 0, region: 0, count: 4 } };
    const before = this.answered;
    const request = encodeRequest(spec, 1, value);
    sendMessage(peer, request, request.length, undefined, undefined, true);
    this.settle();
    return this.answered > before;
  }

  hangUp(): void {
    this.settle();
    if (this.#peer !== undefined) closeFd(this.#peer);
    this.#peer = undefined;
    this.#filled = 0;
    this.reactor.turn(0);
    this.device.dropEventfds();
  }

  close(): void {
    this.hangUp();
    this.#server.close();
    this.reactor.close();
    closeFd(this.#file);
  }

  #connect(): number {
    const [ours, theirs] = socketPair();
    this.#server.adopt(ours);
    this.#peer = theirs;
    this.#filled = 0;
    const hello = encodeRequest(
      messages.VERSION,
      0,
      { major: 0, minor: 2 },
      formatCapabilities(defaultOffer),
    );
    sendMessage(theirs, hello, hello.length, undefined, undefined, true);
    this.settle();
    return theirs;
  }

  #receive(): boolean {
    if (this.#peer === undefined) return false;
    const fds: number[] = [];
    const space = this.#incoming.length - this.#filled;
    let received: number;
    try {
      received = recvMessage(this.#peer, this.#incoming, this.#filled, space, fds, false);
    } catch {
      received = 0;
    }
    for (const fd of fds) closeFd(fd);
    if (received === 0) {
      closeFd(this.#peer);
      this.#peer = undefined;
      return false;
    }
    if (received < 0) return false;
    this.#filled += received;
    let at = 0;
    while (this.#filled - at >= 16) {
      const head = readHeader(this.#incoming, at);
      if (head.size < 16) throw new Error(`the server sent a message of ${head.size} bytes`);
      if (this.#filled - at < head.size) break;
      this.#check(head);
      at += head.size;
    }
    this.#incoming.copy(this.#incoming, 0, at, this.#filled);
    this.#filled -= at;
    return true;
  }

  #check(head: ReturnType<typeof readHeader>): void {
    this.answered += 1;
    const what = `${head.command} size ${head.size} flags ${head.flags} error ${head.error}`;
    if ((head.flags & headerFlags.typeMask) !== headerFlags.typeReply) throw new Error(`no reply: ${what}`);
    if ((head.flags & headerFlags.error) !== 0) {
      if (head.size !== 16 || !knownErrors.has(head.error)) throw new Error(`bad error reply: ${what}`);
      // The fake device has no bugs: EIO would be one of the server.
      if (head.error === errno.EIO) throw new Error(`internal error: ${what}`);
      return;
    }
    const spec = messageOf(head.command);
    if (spec === undefined || spec.from !== 'client')
      throw new Error(`success for an unknown command: ${what}`);
    const access = head.command === command.REGION_READ || head.command === command.REGION_WRITE;
    if (head.size < 16 + spec.reply.struct.size && !(access && head.size === 16))
      throw new Error(`short: ${what}`);
  }
}
