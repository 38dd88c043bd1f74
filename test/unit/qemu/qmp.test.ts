import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import BareQmp from 'qemu-qmp';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DeadlineError, QmpConnectionError, QmpError } from '../../../src/qemu/errors.ts';
import { Qmp } from '../../../src/qemu/qmp.ts';
import { type FakeQmpOptions, FakeQmpServer, type Script } from './fake-qmp-server.ts';

/** Falsy, empty and ordinary answers, told apart by the command's name. */
const script: Script = (command, args) => {
  switch (command) {
    case 'human-monitor-command':
      return { return: args['command-line'] === 'quiet' ? '' : `did ${String(args['command-line'])}` };
    case 'zero':
      return { return: 0 };
    case 'false':
      return { return: false };
    case 'refused':
      return { error: { class: 'CommandNotFound', desc: 'no such thing' } };
    case 'silent':
      return undefined;
    default:
      return { return: { echo: command } };
  }
};

let folder: string;
let server: FakeQmpServer | undefined;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-qmp-'));
});
afterEach(async () => {
  await server?.stop();
  server = undefined;
  rmSync(folder, { recursive: true, force: true });
});

async function start(options: FakeQmpOptions = {}): Promise<FakeQmpServer> {
  server = await FakeQmpServer.start(join(folder, 'qmp'), script, options);
  return server;
}

it('a QEMU that greets and then answers nothing is let go', async () => {
  const { path } = await start({ silent: true });
  await expect(Qmp.connect(path, { timeoutMs: 100 })).rejects.toBeInstanceOf(DeadlineError);
  await expect.poll(() => server?.clients).toBe(0);
});

describe('the bare qemu-qmp package (what the session cures)', () => {
  it('gives the reply after an empty one to the wrong command, and drops the data of events', async () => {
    const { path } = await start();
    const bare = new BareQmp();
    await new Promise<void>((resolve) => {
      (bare.connect as unknown as (path: string, connected: () => void) => void)(path, () => resolve());
    });
    const answers: [string, unknown][] = [];
    const second = new Promise<void>((resolve) => {
      bare.execute('human-monitor-command', { 'command-line': 'quiet' }, (_error, value) => {
        answers.push(['quiet', value]);
        resolve();
      });
    });
    bare.execute('query-status', null, (_error, value) => answers.push(['query-status', value]));
    await second;
    expect(answers).toEqual([['quiet', { echo: 'query-status' }]]);

    const event = new Promise<unknown[]>((resolve) => {
      bare.once('migration', (...values: unknown[]) => resolve(values));
    });
    server?.event('MIGRATION', { status: 'active' });
    expect(await event).toEqual(['MIGRATION']);
    bare.destroy();
  });
});

describe('Qmp', () => {
  it.each([1, 7, 1_000_000])(
    'pairs falsy replies with their commands when chunks are %d bytes',
    async (chunk) => {
      const { path } = await start({ chunk });
      const qmp = await Qmp.connect(path);
      expect(qmp.version).toEqual({ major: 11, minor: 1, micro: 3, package: 'fake' });
      const all = await Promise.all([
        qmp.hmp('quiet'),
        qmp.execute('query-status'),
        qmp.execute('zero'),
        qmp.hmp('loud'),
        qmp.execute('false'),
        qmp.execute('refused').catch((error: unknown) => error),
        qmp.execute('last'),
      ]);
      expect(all.slice(0, 5)).toEqual(['', { echo: 'query-status' }, 0, 'did loud', false]);
      expect(all[5]).toBeInstanceOf(QmpError);
      expect((all[5] as QmpError).qemuClass).toBe('CommandNotFound');
      expect(all[6]).toEqual({ echo: 'last' });
      await qmp.close();
    },
  );

  it('sends the last byte of an anticipated command when it is executed, and no other before it', async () => {
    const fake = await start();
    const qmp = await Qmp.connect(fake.path);
    const before = fake.commands.length;
    const args = { state: 'pre-switchover' };
    qmp.anticipate('migrate-continue', args);
    qmp.anticipate('migrate-continue', args);
    await expect
      .poll(() => fake.unfinished)
      .toBe('{"execute":"migrate-continue","arguments":{"state":"pre-switchover"}');
    expect(fake.commands.length).toBe(before);
    expect(await qmp.execute('migrate-continue', args)).toEqual({ echo: 'migrate-continue' });
    expect(fake.commands.slice(before)).toEqual(['migrate-continue']);
    await qmp.close();
  });

  it('withdraws an anticipated command before any other, and stays in step', async () => {
    const fake = await start();
    const qmp = await Qmp.connect(fake.path);
    const before = fake.commands.length;
    qmp.anticipate('cont');
    const [status, other] = await Promise.all([qmp.execute('query-status'), qmp.execute('cont', { x: 1 })]);
    qmp.anticipate('cont');
    qmp.anticipate('stop');
    expect(await qmp.execute('stop')).toEqual({ echo: 'stop' });
    expect([status, other]).toEqual([{ echo: 'query-status' }, { echo: 'cont' }]);
    // QEMU looks at no command that has a member too many.
    expect(fake.commands.slice(before)).toEqual(['query-status', 'cont', 'stop']);
    await qmp.close();
  });

  it('has a command carried out beside those that wait, where the monitor offers that', async () => {
    const fake = await start();
    const qmp = await Qmp.connect(fake.path);
    expect(fake.enabled).toEqual(['oob']);
    fake.hold();
    const waiting = Promise.all([qmp.execute('query-status'), qmp.hmp('quiet')]);
    qmp.anticipate('cont');
    expect(await qmp.execute('yank', { instances: [] }, { outOfBand: true })).toEqual({ echo: 'yank' });
    const refused = qmp.execute('refused', undefined, { outOfBand: true });
    await expect(refused).rejects.toMatchObject({
      qemuClass: 'CommandNotFound',
      description: 'no such thing',
    });
    fake.release();
    expect(await waiting).toEqual([{ echo: 'query-status' }, '']);
    expect(await qmp.execute('last')).toEqual({ echo: 'last' });
    await qmp.close();
  });

  it('refuses that where the monitor does not', async () => {
    const greeting = '{"QMP": {"version": {"qemu": {"major": 11}}, "capabilities": []}}\r\n';
    const fake = await start({ greeting });
    const qmp = await Qmp.connect(fake.path);
    expect(fake.enabled).toBeUndefined();
    await expect(qmp.execute('yank', {}, { outOfBand: true })).rejects.toBeInstanceOf(QmpError);
    expect(fake.commands).not.toContain('yank');
    expect(await qmp.execute('last')).toEqual({ echo: 'last' });
    await qmp.close();
  });

  it('delivers events with data and time, also those named like events of a socket', async () => {
    const fake = await start({ chunk: 5 });
    const qmp = await Qmp.connect(fake.path);
    const before = qmp.lastEvent;
    const names: string[] = [];
    qmp.on('event', (event) => names.push(event.name));
    const migration = qmp.waitFor('MIGRATION', (event) => event.data.status === 'completed', {
      timeoutMs: 5000,
    });
    fake.event('STOP', {}, 7, 5);
    fake.event('RESUME');
    fake.event('CLOSE');
    fake.event('END');
    fake.event('MIGRATION', { status: 'active' });
    fake.event('MIGRATION', { status: 'completed' }, 3, 250);
    expect((await migration).timeUs).toBe(3_000_250);
    expect(names).toEqual(['STOP', 'RESUME', 'CLOSE', 'END', 'MIGRATION', 'MIGRATION']);
    const stop = await qmp.waitFor('STOP', () => true, { timeoutMs: 1, after: before });
    expect(stop.timeUs).toBe(7_000_005);
    expect(await qmp.execute('still-there')).toEqual({ echo: 'still-there' });
    await qmp.close();
  });

  it('gives up on a silent command without losing its place', async () => {
    const fake = await start();
    const qmp = await Qmp.connect(fake.path);
    await expect(qmp.execute('silent', undefined, { timeoutMs: 20 })).rejects.toThrow(DeadlineError);
    fake.send('{"return": "late"}\r\n');
    expect(await qmp.execute('next')).toEqual({ echo: 'next' });
    await qmp.close();
  });

  it('fails everything that waits when the peer goes away', async () => {
    const fake = await start();
    const qmp = await Qmp.connect(fake.path);
    const command = qmp.execute('silent');
    const event = qmp.waitFor('NEVER', () => true, { timeoutMs: 5000 });
    fake.dropClients();
    await expect(command).rejects.toThrow(QmpConnectionError);
    await expect(event).rejects.toThrow(QmpConnectionError);
    await expect(qmp.execute('more')).rejects.toThrow(QmpConnectionError);
    expect(qmp.open).toBe(false);
  });

  it('says so when the peer is silent, absent or no QMP', async () => {
    await expect(Qmp.connect(join(folder, 'nobody'))).rejects.toThrow(/ENOENT/);
    const silent = await start({ greeting: ' ' });
    await expect(Qmp.connect(silent.path, { timeoutMs: 30 })).rejects.toThrow(
      /one client at a time|greeting/,
    );
    await silent.stop();
    const other = await start({ greeting: 'SSH-2.0-x\r\n' });
    await expect(Qmp.connect(other.path)).rejects.toThrow(/does not speak QMP/);
  });

  it('stops waiting for an event when its signal says so', async () => {
    const fake = await start();
    const qmp = await Qmp.connect(fake.path);
    const abort = new AbortController();
    const waiting = qmp.waitFor('X', () => true, { timeoutMs: 5000, signal: abort.signal });
    abort.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    await qmp.close();
  });
});
