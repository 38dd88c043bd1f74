import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GuestAgent } from '../../src/qemu/guest-agent.ts';

/** A request as the guest sees it. */
interface Request {
  readonly kind: string;
  readonly id: string;
  readonly command: string;
  readonly socket: Socket;
}

/** The guest's end of a serial port: collects requests, and answers as the test says. */
class FakeGuest {
  readonly requests: Request[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #wake: (() => void) | undefined;

  constructor(path: string) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => this.#sockets.delete(socket));
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk.toString('latin1');
        const lines = text.split('\n');
        text = lines.pop() ?? '';
        for (const line of lines) {
          const [kind = '', id = '', , base64 = ''] = line.replace('\x01', '').split(' ');
          this.requests.push({ kind, id, command: Buffer.from(base64, 'base64').toString(), socket });
        }
        this.#wake?.();
      });
    });
    this.#server.listen(path);
  }

  /** The request number `index`, once it has come. */
  async request(index: number): Promise<Request> {
    for (;;) {
      const found = this.requests[index];
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

function answer(id: string, status: number, output: string, sum?: string): string {
  const bytes = Buffer.from(output);
  const crc = sum ?? crc32(bytes).toString(16).padStart(8, '0');
  return `\x01A ${id} ${status} - ${crc} ${bytes.toString('base64')}\n`;
}

let folder: string;
let guest: FakeGuest;
let agent: GuestAgent;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-companion-agent-'));
  guest = new FakeGuest(join(folder, 'a'));
  agent = new GuestAgent(join(folder, 'a'));
});

afterEach(async () => {
  agent.close();
  await guest.close();
  rmSync(folder, { recursive: true, force: true });
});

describe('GuestAgent', () => {
  it('sends a command and returns its status and output', async () => {
    const result = agent.run('echo "über"');
    const { id, kind, command, socket } = await guest.request(0);
    expect([kind, command]).toEqual(['R', 'echo "über"']);
    socket.write(answer(id, 3, 'über\n'));
    expect(await result).toEqual({ status: 3, stdout: 'über\n', truncated: false });
  });

  it('waits for ever when it is asked to', async () => {
    const result = agent.run('x', { timeoutMs: Number.POSITIVE_INFINITY });
    const { id, socket } = await guest.request(0);
    await new Promise((resolve) => setTimeout(resolve, 20));
    socket.write(answer(id, 0, 'late'));
    expect((await result).stdout).toBe('late');
  });

  it('finds the answer in noise, and in pieces of one byte', async () => {
    const result = agent.run('x');
    const { id, socket } = await guest.request(0);
    const bytes = `login: \x01A half of a frame\x01${answer('other', 0, 'no')}noise\n${answer(id, 0, 'yes')}`;
    for (const byte of bytes) {
      socket.write(byte, 'latin1');
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect((await result).stdout).toBe('yes');
  });

  it('asks again when an answer is damaged, when the guest says so, and when the agent starts', async () => {
    const result = agent.run('x');
    const { id, socket } = await guest.request(0);
    socket.write(answer(id, 0, 'damaged', '00000000'));
    expect((await guest.request(1)).id).toBe(id);
    socket.write(`\x01N ${id}\n`);
    expect((await guest.request(2)).id).toBe(id);
    socket.write('\x01H -\n');
    expect((await guest.request(3)).id).toBe(id);
    socket.write(answer(id, 0, 'whole'));
    expect((await result).stdout).toBe('whole');
  });

  it('repeats a request that was lost', async () => {
    const result = agent.run('x');
    const first = await guest.request(0);
    const second = await guest.request(1);
    expect(second.id).toBe(first.id);
    second.socket.write(answer(second.id, 0, 'late'));
    expect((await result).stdout).toBe('late');
  });

  it('goes on at the destination after a migration, with the same request', async () => {
    const result = agent.run('long');
    const { id } = await guest.request(0);
    const destination = new FakeGuest(join(folder, 'b'));
    agent.attach(join(folder, 'b'));
    const again = await destination.request(0);
    expect([again.id, again.command]).toEqual([id, 'long']);
    again.socket.write(answer(id, 0, 'moved'));
    expect((await result).stdout).toBe('moved');
    await destination.close();
  });

  it('still takes an answer that came by the old connection', async () => {
    const result = agent.run('x');
    const { id, socket } = await guest.request(0);
    agent.attach(join(folder, 'not-there-yet'));
    socket.write(answer(id, 0, 'from the source'));
    expect((await result).stdout).toBe('from the source');
  });

  it('connects when the socket appears later', async () => {
    const late = new GuestAgent(join(folder, 'late'));
    const result = late.run('x');
    await new Promise((resolve) => setTimeout(resolve, 50));
    const server = new FakeGuest(join(folder, 'late'));
    const { id, socket } = await server.request(0);
    socket.write(answer(id, 0, 'here'));
    expect((await result).stdout).toBe('here');
    late.close();
    await server.close();
  });

  it('gives up after the time-out and has the command killed', async () => {
    await expect(agent.run('sleep 100', { timeoutMs: 300 })).rejects.toThrow('sleep 100');
    const [run, kill] = [await guest.request(0), await guest.request(1)];
    expect([run.kind, kill.kind, kill.id]).toEqual(['R', 'K', run.id]);
    const again = await guest.request(2);
    expect([again.kind, again.id]).toEqual(['K', run.id]);
  });

  it('says that a command is to be killed until its end is told', async () => {
    await expect(agent.run('sleep 100', { timeoutMs: 1 })).rejects.toThrow('sleep 100');
    const { id, socket } = await guest.request(3);
    socket.write(answer(id, 137, ''));
    const runs = (): Request[] => guest.requests.filter(({ kind }) => kind === 'R');
    // By the answer to the next command that end has been read, and by the one after that the guest has what was said before.
    for (const count of [2, 3]) {
      const next = agent.run('true');
      await expect.poll(() => runs().length).toBe(count);
      socket.write(answer(runs()[count - 1]?.id ?? '', 0, ''));
      await next;
    }
    const said = guest.requests.length;
    await new Promise((resolve) => setTimeout(resolve, 1400));
    expect(guest.requests.length).toBe(said);
  });

  it('takes a boot that ends for the next one neither when it reboots the guest nor when somebody else does', async () => {
    const result = agent.reboot();
    const asked = await guest.request(0);
    asked.socket.write(answer(asked.id, 0, 'first-boot\n'));
    const rebooted = await guest.request(1);
    expect(rebooted.command).toMatch(/!= "first-boot" \] \|\| .*reboot/);
    rebooted.socket.write(answer(rebooted.id, 0, ''));
    const waited = await guest.request(2);
    expect(waited.command).toMatch(/ready.* != "first-boot" \]/);
    // The agent of the next boot has forgotten it.
    waited.socket.write('\x01H -\n');
    const again = await guest.request(3);
    expect([again.id, again.command]).toEqual([waited.id, waited.command]);
    again.socket.write(answer(again.id, 0, ''));
    await result;
  });

  it('check() fails on a status other than 0 and names the output', async () => {
    const result = agent.check('false');
    const { id, socket } = await guest.request(0);
    socket.write(answer(id, 1, 'it is false'));
    await expect(result).rejects.toThrow('it is false');
  });

  it('refuses a command that does not fit, and fails what is open when closed', async () => {
    await expect(agent.run('x'.repeat(70_000))).rejects.toThrow('too long');
    const open = agent.run('x');
    agent.close();
    await expect(open).rejects.toThrow('closed');
    await expect(agent.run('x')).rejects.toThrow('closed');
  });
});
