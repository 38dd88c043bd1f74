import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

/** A directory with libvfio-user's `client` (samples/client.c, migration v2), built and unmodified. */
const samples = process.env.LIBVFIO_USER_SAMPLES;
const sampleClient = samples === undefined ? undefined : join(samples, 'client');
const program =
  process.env.VFIO_COMPANION_CLI ?? fileURLToPath(new URL('../../dist/src/cli/main.js', import.meta.url));

const missing =
  sampleClient === undefined
    ? 'LIBVFIO_USER_SAMPLES is not set'
    : [sampleClient, program].filter((file) => !existsSync(file)).map((file) => `${file} is missing`)[0];

/**
 * The client forks in the middle: its first process becomes the destination server, by executing the file `server`
 * beside it, and the second one goes on as the client. This takes the place of the server, has one of ours
 * serve, waits for the client and ends as it did; with 99 if only the server ended.
 */
const destination = (command: readonly string[]): string => `#!/usr/bin/perl
my $socket = $ARGV[1];
my $server;
# Ended by the test, it leaves nothing behind.
$SIG{TERM} = sub { kill 'TERM', $server if $server; };
$server = fork();
if ($server == 0) { exec(${command.map((word) => `'${word}', `).join('')}'--socket', $socket); exit 98; }
my $result = 99;
while ((my $ended = wait()) > 0) {
  last if $ended == $server;
  $result = $? & 127 ? 128 + ($? & 127) : $? >> 8;
  kill 'TERM', $server;
}
exit $result;
`;

describe.skipIf(missing !== undefined)(
  `libvfio-user's sample client and our timer${missing === undefined ? '' : ` (${missing})`}`,
  () => {
    let directory: string;
    const children: ChildProcess[] = [];

    beforeEach(() => {
      directory = mkdtempSync(join(tmpdir(), 'vc-test-'));
      symlinkSync(sampleClient ?? '', join(directory, 'client'));
    });

    afterEach(async () => {
      for (const child of children.splice(0)) {
        if (child.exitCode !== null || child.signalCode !== null) continue;
        const ended = once(child, 'exit');
        child.kill('SIGTERM');
        await ended;
      }
      rmSync(directory, { recursive: true, force: true });
    });

    /** Collects what a process says; the first piece of it is there when this resolves. */
    function start(file: string, args: readonly string[]): { child: ChildProcess; said: string[] } {
      const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
      children.push(child);
      const said: string[] = [];
      for (const stream of [child.stdout, child.stderr])
        stream.on('data', (bytes) => said.push(String(bytes)));
      return { child, said };
    }

    async function run(...options: string[]) {
      const command = [process.execPath, program, 'serve', 'timer', ...options];
      writeFileSync(join(directory, 'server'), destination(command));
      chmodSync(join(directory, 'server'), 0o755);
      const socket = join(directory, 'source');
      const source = start(process.execPath, [...command.slice(1), '--log', 'debug', '--socket', socket]);
      await once(source.child.stdout ?? source.child, 'data');
      const client = start(join(directory, 'client'), [socket]);
      const [status] = (await once(client.child, 'close')) as [number];
      return { status, client: client.said.join(''), source: source.said.join('') };
    }

    it('run to the end, through a live migration', { timeout: 90_000 }, async () => {
      const { status, client, source } = await run();
      expect(client).not.toContain('failed to connect');
      expect({ status, client, source }).toMatchObject({ status: 0 });
      expect(client.match(/INTx triggered/g)).toHaveLength(2);
      expect(source).toContain('PRE_COPY → STOP_COPY');
      expect(client + source).not.toContain('self test failed');
    });

    it('notice a server that can not do PRE_COPY', { timeout: 90_000 }, async () => {
      const { status } = await run('--no-precopy');
      expect(status).not.toBe(0);
    });
  },
);
