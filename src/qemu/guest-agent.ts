import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { crc32 } from 'node:zlib';
import { CompanionError, errno } from '../errors.ts';
import { startTimer, type Timer } from '../start-timer.ts';

/** What a command in the guest came to. */
export interface GuestResult {
  /** Exit status of the shell; 128 + N after signal N. */
  readonly status: number;
  /** Standard output and standard error, in the order in which they came. */
  readonly stdout: string;
  /** The output was longer than what the agent keeps (1 MiB), and was cut off. */
  readonly truncated: boolean;
}

export interface RunOptions {
  /** Give up, and kill the command in the guest, after so many milliseconds (default 60,000). */
  readonly timeoutMs?: number;
}

export interface ReadyOptions extends RunOptions {
  /**
   * What `bootId` said before a reboot that somebody else causes: the guest is ready when that boot has gone. Its agent
   * answers until the kernel has shut its devices down, which takes seconds, and would be taken for the new one.
   */
  readonly since?: string;
}

/** A command could not be run in the guest, or did not end in time. */
export class GuestAgentError extends CompanionError {
  constructor(message: string, hint: string) {
    super('VC_GUEST_AGENT', message, { errno: errno.ETIMEDOUT, hint });
  }
}

const frameStart = 1;
const frameEnd = 10;
const defaultTimeoutMs = 60_000;
/** That a command is to be killed is said again after so long, and then after twice as long, until it has ended, and so often at most. */
const firstKillAgainMs = 300;
const kills = 7;
/** A request without an answer is sent again after so long, and then after twice as long, up to the limit. */
const firstResendMs = 700;
const lastResendMs = 10_000;
const reconnectMs = 100;
/** A request has to fit the agent's line buffer. */
const commandLimit = 64 * 1024;
const bootIdFile = '/proc/sys/kernel/random/boot_id';
/** Longer than any frame that the agent sends. */
const frameLimit = 2 * 1024 * 1024;

interface Pending {
  readonly frame: string;
  readonly resolve: (result: GuestResult) => void;
  readonly reject: (error: Error) => void;
  resend: NodeJS.Timeout | undefined;
  delayMs: number;
}

/**
 * Host side of the guest's control agent (`images/guest/agent.c`, where the frames are described), over the
 * UNIX socket of the chardev behind the guest's second serial port:
 *
 *     -chardev socket,id=agent,path=PATH,server=on,wait=off -serial file:console.log -serial chardev:agent
 *
 * It lives through a live migration: call `attach` with the destination's socket, before or after the guest
 * has moved. Requests that were under way are sent again, and the guest runs each of them once; only a
 * guest that boots anew has forgotten them, and runs them again. So let a command that reboots it return first (`reboot` does).
 */
export class GuestAgent {
  readonly #prefix = randomBytes(6).toString('hex');
  readonly #pending = new Map<string, Pending>();
  /** Commands that are to be killed, until they have ended. */
  readonly #killing = new Map<string, NodeJS.Timeout>();
  #counter = 0;
  #socket: Socket | undefined;
  /** Connections to QEMUs that the guest has left. */
  readonly #left = new Set<Socket>();
  #path: string;
  #closed = false;
  #reconnect: NodeJS.Timeout | undefined;

  /** Starts to connect; QEMU may not have made the socket yet. */
  constructor(path: string) {
    this.#path = path;
    this.#connect();
  }

  /**
   * Talks to the guest through another QEMU from now on: after a migration, the destination's. The old
   * connection stays open for what is still on its way through it, until that QEMU goes away.
   */
  attach(path: string): void {
    this.#path = path;
    const old = this.#socket;
    if (old !== undefined && !old.destroyed) {
      this.#left.add(old);
      old.once('close', () => this.#left.delete(old));
    }
    this.#socket = undefined;
    this.#connect();
  }

  /**
   * Runs `command`, of at most 64 KiB, in the guest's shell, as root, and waits for its end.
   * @throws GuestAgentError when it has not ended within `timeoutMs`, is too long, or the agent is closed
   */
  async run(command: string, options: RunOptions = {}): Promise<GuestResult> {
    const bytes = Buffer.from(command);
    if (this.#closed) throw new GuestAgentError('the guest agent is closed', 'use another GuestAgent');
    if (bytes.length > commandLimit) {
      throw new GuestAgentError(`a guest command of ${bytes.length} bytes is too long`, 'send it in parts');
    }
    const timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
    const id = `${this.#prefix}-${++this.#counter}`;
    const frame = `\x01R ${id} ${checksum(bytes)} ${bytes.toString('base64')}\n`;
    let deadline: Timer | undefined;
    try {
      return await new Promise<GuestResult>((resolve, reject) => {
        const pending: Pending = { frame, resolve, reject, resend: undefined, delayMs: firstResendMs };
        this.#pending.set(id, pending);
        this.#send(pending);
        deadline = startTimer(() => {
          this.#kill(id);
          const what = command.length > 80 ? `${command.slice(0, 80)}…` : command;
          reject(
            new GuestAgentError(
              `no answer from the guest within ${timeoutMs} ms: ${what}`,
              'look at the console log of the guest, and at whether its vCPUs run',
            ),
          );
        }, timeoutMs);
      });
    } finally {
      deadline?.stop();
      clearTimeout(this.#pending.get(id)?.resend);
      this.#pending.delete(id);
    }
  }

  /** Has the guest kill what runs under `id`. A guest that is held up loses characters: it is said again, until the command's end is told. */
  #kill(id: string, left = kills, againMs = firstKillAgainMs): void {
    this.#socket?.write(`\x01K ${id}\n`);
    if (left === 1) this.#killing.delete(id);
    else this.#killing.set(id, setTimeout(() => this.#kill(id, left - 1, 2 * againMs), againMs).unref());
  }

  /**
   * Like `run`, but returns the output, without its last line end.
   * @throws GuestAgentError as `run`, and when the exit status is not 0
   */
  async check(command: string, options: RunOptions = {}): Promise<string> {
    const { status, stdout } = await this.run(command, options);
    if (status === 0) return stdout.replace(/\n$/, '');
    throw new GuestAgentError(
      `in the guest, "${command}" ended with status ${status}: ${stdout.trim()}`,
      'look at the console log of the guest',
    );
  }

  /**
   * Waits until the guest has booted, loaded its drivers and answers.
   * @throws GuestAgentError when that takes longer than `timeoutMs`
   */
  async waitReady({ since, ...options }: ReadyOptions = {}): Promise<void> {
    // In the boot that ends this is never true, and the next one is asked anew.
    const another = since === undefined ? '' : ` && [ "$(cat ${bootIdFile})" != "${since}" ]`;
    await this.check(`until [ -e /run/ready ]${another}; do sleep 0.05; done`, options);
  }

  /**
   * What tells one boot of the guest from another (`boot_id` of Linux's random(4)).
   * @throws GuestAgentError as `run`
   */
  async bootId(options: RunOptions = {}): Promise<string> {
    return this.check(`cat ${bootIdFile}`, options);
  }

  /**
   * Reboots the guest at once, without an orderly shutdown, and waits until it has booted and answers.
   * @throws GuestAgentError when one of these takes longer than `timeoutMs`
   */
  async reboot(options: RunOptions = {}): Promise<void> {
    const since = await this.bootId(options);
    // Returns first. Where the answer is lost, the next boot is asked the same.
    await this.check(
      `[ "$(cat ${bootIdFile})" != "${since}" ] || (sleep 0.2; reboot -f) >/dev/null 2>&1 &`,
      options,
    );
    await this.waitReady({ ...options, since });
  }

  /** Closes the connection. What is under way fails with a `GuestAgentError`; in the guest it goes on. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#reconnect);
    for (const timer of this.#killing.values()) clearTimeout(timer);
    for (const socket of this.#left) socket.destroy();
    this.#socket?.destroy();
    const error = new GuestAgentError('the guest agent was closed', 'wait for running commands first');
    for (const { reject } of this.#pending.values()) reject(error);
  }

  #connect(): void {
    clearTimeout(this.#reconnect);
    if (this.#closed) return;
    const path = this.#path;
    const socket = connect(path);
    const reader = new FrameReader((frame) => this.#receive(frame));
    socket.on('data', (chunk) => reader.push(chunk));
    socket.on('error', () => {});
    socket.on('connect', () => {
      if (this.#socket !== socket) return;
      for (const pending of this.#pending.values()) this.#send(pending);
    });
    socket.on('close', () => {
      if (this.#socket === socket) this.#reconnect = setTimeout(() => this.#connect(), reconnectMs);
    });
    this.#socket = socket;
  }

  #send(pending: Pending): void {
    clearTimeout(pending.resend);
    const socket = this.#socket;
    // Nothing is queued for a socket that is not open: opening it sends all that is pending.
    if (socket?.readyState === 'open') {
      socket.write(pending.frame);
      pending.resend = setTimeout(() => this.#send(pending), pending.delayMs);
      pending.delayMs = Math.min(pending.delayMs * 2, lastResendMs);
    }
  }

  #receive(frame: string): void {
    const [kind, id = '', status = '', flag, sum, base64 = ''] = frame.split(' ');
    if (kind === 'H') {
      for (const pending of this.#pending.values()) this.#send(pending);
      return;
    }
    if (kind === 'A') {
      clearTimeout(this.#killing.get(id));
      this.#killing.delete(id);
    }
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    if (kind === 'N') {
      this.#send(pending);
    } else if (kind === 'A') {
      const bytes = Buffer.from(base64, 'base64');
      if (checksum(bytes) !== sum) this.#send(pending);
      else pending.resolve({ status: Number(status), stdout: bytes.toString(), truncated: flag === 't' });
    }
  }
}

function checksum(bytes: Uint8Array): string {
  return crc32(bytes).toString(16).padStart(8, '0');
}

/** Cuts the byte stream of the serial port into frames; anything outside a frame is dropped. */
class FrameReader {
  readonly #deliver: (frame: string) => void;
  #chunks: Buffer[] = [];
  #length = 0;
  #inFrame = false;

  constructor(deliver: (frame: string) => void) {
    this.#deliver = deliver;
  }

  push(chunk: Buffer): void {
    let rest = chunk;
    while (rest.length > 0) {
      const start = rest.indexOf(frameStart);
      const end = rest.indexOf(frameEnd);
      if (start >= 0 && (end < 0 || start < end)) {
        this.#begin();
        rest = rest.subarray(start + 1);
        continue;
      }
      const stop = end < 0 ? rest.length : end;
      if (this.#inFrame) this.#append(rest.subarray(0, stop));
      if (end >= 0) this.#finish();
      rest = rest.subarray(end < 0 ? stop : stop + 1);
    }
  }

  #begin(): void {
    this.#chunks = [];
    this.#length = 0;
    this.#inFrame = true;
  }

  #append(part: Buffer): void {
    this.#length += part.length;
    if (this.#length > frameLimit) this.#inFrame = false;
    else this.#chunks.push(part);
  }

  #finish(): void {
    if (this.#inFrame) this.#deliver(Buffer.concat(this.#chunks).toString('latin1'));
    this.#chunks = [];
    this.#inFrame = false;
  }
}
