/**
 * npm `qemu-qmp` 0.5.0 with its flaws cured from outside. What the package does wrong:
 *
 * - a reply whose `return` is falsy (every HMP command that prints nothing returns `""`) is ignored, its
 *   callback stays in the queue, and every later reply goes to the wrong command;
 * - an event is emitted by its lower-case name without its data and time, so that QEMU's RESUME and CLOSE
 *   look like the socket's own events;
 * - the greeting is parsed from the first chunk, whatever that chunk holds;
 * - an error reply loses its class, and callbacks are dropped when the connection ends.
 *
 * The cure sits where bytes enter the stream (`push`): only whole lines go on, the greeting as a chunk of
 * its own, every reply boxed in `{"return": {"reply": …}}` (never falsy, class of errors kept), events are
 * taken out. Everything happens in the tick in which the bytes arrive.
 */
import { BareQmp } from './bare-qmp.ts';

/** A reply as it came: `return` or `error`. */
export interface BoxedReply {
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

/** Longest line that is accepted; QEMU's longest replies (`query-qmp-schema`) are about 200 KiB. */
const maxLineBytes = 64 * 1024 * 1024;
const newline = 0x0a;
/** The capability of a monitor that carries commands out beside those that wait (`QMPCapability` in qapi/control.json). */
const outOfBandCapability = 'oob';
/** What ends a request. */
const lastByte = '}';
/** Ends a request in a way that QEMU refuses before it looks at the command (`qmp_dispatch_check_obj` in qapi/qmp-dispatch.c). */
const unexpectedMember = ',"withdrawn":true}';

type ReplyCallback = (error: Error | null, value: unknown) => void;

function isCallback(value: object | null | undefined): value is ReplyCallback {
  return typeof value === 'function';
}

/** As the package writes it. */
function requestText(command: string, args: object | null | undefined): string {
  return JSON.stringify(args ? { execute: command, arguments: args } : { execute: command });
}

export interface QmpSocketHandlers {
  greeting(greeting: unknown): void;
  event(event: unknown): void;
  /** Something that is no QMP arrived. */
  garbage(reason: string): void;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

export class QmpSocket extends BareQmp {
  #handlers: QmpSocketHandlers | undefined;
  #partial: Buffer[] = [];
  #partialBytes = 0;
  #greeted = false;
  /** The command that lacks nothing but its last byte. */
  #anticipated: string | undefined;
  #takesOutOfBand = false;
  /** What waits for an answer out of band, by its id. */
  readonly #outOfBand = new Map<string, (reply: BoxedReply) => void>();
  #ids = 0;

  handle(handlers: QmpSocketHandlers): void {
    this.#handlers = handlers;
  }

  /** Sends all of a command but its last byte, which `execute` of the same command sends. */
  anticipate(command: string, args: object | null): void {
    const text = requestText(command, args);
    if (text === this.#anticipated) return;
    this.#withdraw();
    this.write(text.slice(0, -1));
    this.#anticipated = text;
  }

  /** Whether this monitor carries out commands beside those that wait; known after its greeting. */
  get takesOutOfBand(): boolean {
    return this.#takesOutOfBand;
  }

  /** Has a command carried out at once, beside all that wait: QEMU's main loop may be stuck in one of them. Only a few commands can be. */
  executeOutOfBand(command: string, args: object | null, callback: (reply: BoxedReply) => void): void {
    this.#withdraw();
    this.#ids += 1;
    const id = `out-of-band-${this.#ids}`;
    this.#outOfBand.set(id, callback);
    this.write(JSON.stringify({ 'exec-oob': command, id, ...(args === null ? {} : { arguments: args }) }));
  }

  override execute(command: string, second?: object | ReplyCallback | null, callback?: ReplyCallback): void {
    const [given, reply] = isCallback(second) ? [null, second] : [second ?? null, callback];
    // The package negotiates by itself, and asks for nothing.
    const negotiates = command === 'qmp_capabilities' && this.#takesOutOfBand;
    const args = negotiates ? { enable: [outOfBandCapability] } : given;
    if (this.#anticipated !== undefined && requestText(command, args) === this.#anticipated) {
      this.#anticipated = undefined;
      this._commands.push(reply);
      this.write(lastByte);
      return;
    }
    this.#withdraw();
    super.execute(command, args, reply);
  }

  /** Ends what was anticipated so that QEMU refuses it, whichever command it is: other commands can't come before. */
  #withdraw(): void {
    if (this.#anticipated === undefined) return;
    this.#anticipated = undefined;
    this._commands.push(() => undefined);
    this.write(unexpectedMember);
  }

  override push(chunk: unknown, encoding?: BufferEncoding): boolean {
    if (!Buffer.isBuffer(chunk)) return super.push(chunk, encoding);
    let room = true;
    let from = 0;
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, from)) {
      const line = this.#takeLine(chunk.subarray(from, end));
      from = end + 1;
      if (line !== '') room = this.#line(line);
    }
    if (from < chunk.length) {
      this.#partial.push(Buffer.from(chunk.subarray(from)));
      this.#partialBytes += chunk.length - from;
      if (this.#partialBytes > maxLineBytes) this.#garbage('a line without end');
    }
    return room;
  }

  #takeLine(tail: Buffer): string {
    if (this.#partialBytes === 0) return tail.toString('utf8').trim();
    const line = Buffer.concat([...this.#partial, tail])
      .toString('utf8')
      .trim();
    this.#partial = [];
    this.#partialBytes = 0;
    return line;
  }

  #line(line: string): boolean {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      return this.#garbage(`not JSON: ${line.slice(0, 80)}`);
    }
    if (!isObject(message)) return this.#garbage(`not an object: ${line.slice(0, 80)}`);
    if (!this.#greeted) {
      if (!isObject(message.QMP)) return this.#garbage(`no QMP greeting: ${line.slice(0, 80)}`);
      this.#greeted = true;
      const { capabilities } = message.QMP;
      this.#takesOutOfBand = Array.isArray(capabilities) && capabilities.includes(outOfBandCapability);
      // Only an empty greeting goes on: the package copies its fields over the socket's own.
      const room = super.push(Buffer.from('{"QMP":{}}'));
      this.#handlers?.greeting(message.QMP);
      return room;
    }
    if ('event' in message) {
      this.#handlers?.event(message);
      return true;
    }
    if ('return' in message || 'error' in message) {
      const waiting = this.#waitingFor(message.id);
      if (waiting !== undefined) {
        waiting(message as BoxedReply);
        return true;
      }
      return super.push(Buffer.from(`{"return":{"reply":${line}}}\n`));
    }
    return this.#garbage(`neither reply nor event: ${line.slice(0, 80)}`);
  }

  /** Takes who waits for the answer out of band with this id. */
  #waitingFor(id: unknown): ((reply: BoxedReply) => void) | undefined {
    if (typeof id !== 'string') return undefined;
    const waiting = this.#outOfBand.get(id);
    this.#outOfBand.delete(id);
    return waiting;
  }

  #garbage(reason: string): boolean {
    this.#handlers?.garbage(reason);
    return true;
  }
}
