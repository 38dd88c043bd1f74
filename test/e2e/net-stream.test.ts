import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { silentLogger } from '../../src/log.ts';
import { createReactor } from '../../src/loop/index.ts';
import { openPort } from '../../src/net/index.ts';
import { TestPeer } from '../../src/net/testing/test-peer.ts';
import { locateQemu } from '../../src/setup/index.ts';

/** A QEMU without a guest, whose user-mode network stack is at the other end of its `-netdev stream`. */
const netdevs = (path: string) => [
  ...['-machine', 'none', '-nodefaults', '-display', 'none'],
  ...['-netdev', 'user,id=u', '-netdev', 'hubport,id=h0,hubid=0,netdev=u'],
  ...['-netdev', `stream,id=s,server=off,addr.type=unix,addr.path=${path}`],
  ...['-netdev', 'hubport,id=h1,hubid=0,netdev=s'],
];

test("speaks QEMU's own -netdev stream: its user-mode stack answers our pings, large ones too", async () => {
  const qemu = await locateQemu();
  const directory = mkdtempSync(join(tmpdir(), 'vc-net-'));
  const reactor = createReactor({ busyWaitNs: 0 });
  const path = join(directory, 'stream');
  const port = openPort(`stream:unix:${path},server`, { reactor, log: silentLogger });
  const child = spawn(qemu.command, [...qemu.args, ...netdevs(path)], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const pongs: number[] = [];
  const peer = new TestPeer(
    port,
    { mac: '52:54:00:00:00:01', ip: '10.0.2.15' },
    { pong: (sequence) => pongs.push(sequence) },
  );
  const until = async (condition: () => boolean) => {
    const end = Date.now() + 60_000;
    while (!condition()) {
      if (Date.now() > end || child.exitCode !== null) throw new Error(`never came true: ${condition}`);
      reactor.turn(5);
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  try {
    await until(() => port.linkUp);
    for (const [sequence, size] of [48, 1, 1400].entries()) {
      peer.ping('10.0.2.2', sequence, Buffer.alloc(size, 0x5a));
      await until(() => pongs.length === sequence + 1);
    }
    expect(pongs).toEqual([0, 1, 2]);
    expect(peer.badChecksums).toBe(0);
    child.kill('SIGKILL');
    await ended;
    while (port.linkUp) reactor.turn(5);
  } finally {
    child.kill('SIGKILL');
    await ended;
    port.close();
    reactor.close();
    rmSync(directory, { recursive: true, force: true });
  }
});
