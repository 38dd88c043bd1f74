import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { errno } from '../../src/errors.ts';
import { closeFd, eventfdCreate, eventfdDrain, MappedMemory, memfdCreate } from '../../src/posix/index.ts';
import { operations, PeerError, VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { pciIrq, pciRegion } from '../../src/vfio-user/constants.ts';
import { thrownBy } from '../thrown.ts';

/** A directory with libvfio-user's `server` (samples/server.c), built; without it there is no peer to test with. */
const samples = process.env.LIBVFIO_USER_SAMPLES;
const sampleServer = samples === undefined ? undefined : join(samples, 'server');

const why = sampleServer === undefined ? ' (skipped: LIBVFIO_USER_SAMPLES is not set)' : '';

describe.skipIf(sampleServer === undefined)(`our client and libvfio-user’s sample server${why}`, () => {
  let directory: string;
  let child: ChildProcess;
  let client: VfioUserClient;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'vc-test-'));
    const path = join(directory, 'sample.sock');
    child = spawn(sampleServer ?? '', [path], { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr?.on('data', (text: Buffer) => {
      said += String(text);
    });
    for (let tries = 0; !existsSync(path) && tries < 400; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    try {
      client = VfioUserClient.connect(path);
    } catch (error) {
      throw new Error(`the sample server does not serve: ${said.trim() || 'it says nothing'}`, {
        cause: error,
      });
    }
  });

  afterEach(async () => {
    client?.close();
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await ended;
    }
    rmSync(directory, { recursive: true, force: true });
  });

  it('agree on what the device is', () => {
    expect(client.server.maxMsgFds).toBe(8);
    expect(client.getInfo()).toMatchObject({ flags: 3, irqs: pciIrq.count });
    expect(client.getRegionInfo(0)).toMatchObject({ size: 8, flags: 3 });
    const bar1 = client.getRegionInfo(1);
    expect(bar1).toMatchObject({
      flags: 15,
      areas: [
        { offset: 0, size: 4096 },
        { offset: 8192, size: 4096 },
      ],
    });
    if (bar1.fd !== undefined) closeFd(bar1.fd);
    const config = client.regionRead(pciRegion.config, 0, 64);
    expect([config.readUInt16LE(0), config.readUInt16LE(2)]).toEqual([0xdead, 0xbeef]);
    expect([0, 1, 2, 3, 4].map((index) => client.getIrqInfo(index).count)).toEqual([1, 0, 0, 1, 1]);
    expect(client.migrationFlags()).toBe(5);
  });

  it('agree on errors', () => {
    const thrown = thrownBy(PeerError, () => client.regionRead(0xdead_beef, 0, 4));
    expect(thrown).toMatchObject({ errno: errno.EINVAL });
    expect(() => client.run(operations.probeFeature(77))).toThrow(PeerError);
  });

  it('do DMA both ways and interrupt', () => {
    const size = 4096;
    const fds = [memfdCreate('a', size), memfdCreate('b', size)];
    const [bytes, mapped] = fds.map((fd) => MappedMemory.map(fd, 0, size, 3));
    const window = bytes?.windows[0];
    if (window === undefined) throw new Error('no memory');
    // The sample uses messages for its first region and the mapping of its second.
    client.dmaMap({ iova: 0, size, prot: 3, bytes: window });
    client.dmaMap({ iova: size, size, prot: 3, fd: fds[1] ?? -1 });
    const eventfd = eventfdCreate();
    client.setIrqs({ index: pciIrq.intx, count: 1, action: 'trigger', eventfds: [eventfd] });
    const accesses: string[] = [];
    client.onDma = ({ write, count }) => accesses.push(`${write ? 'write' : 'read'} ${count}`);
    const when = Buffer.alloc(8);
    when.writeBigInt64LE(BigInt(Math.floor(Date.now() / 1000) + 1));
    client.regionWrite(0, 0, when);
    const deadline = performance.now() + 8000;
    while (!eventfdDrain(eventfd) && performance.now() < deadline) client.poll();
    while (accesses.length < 6 && performance.now() < deadline) client.poll();
    expect(accesses).toEqual([
      'write 1024',
      'write 1024',
      'write 1024',
      'write 1024',
      'read 2048',
      'read 2048',
    ]);
    expect(String.fromCharCode(...[0, 1024, 2048, 3072].map((at) => window[at] ?? 0))).toBe('ABCD');
    bytes?.unmap();
    mapped?.unmap();
    for (const fd of [...fds, eventfd]) closeFd(fd);
  });

  it('migrate', () => {
    client.setState(6);
    const chunks: Buffer[] = [];
    for (let chunk = client.readState(4096); chunk.length > 0; chunk = client.readState(4096))
      chunks.push(Buffer.from(chunk));
    client.setState(3);
    for (let chunk = client.readState(4096); chunk.length > 0; chunk = client.readState(4096))
      chunks.push(Buffer.from(chunk));
    client.setState(1);
    expect(client.getState()).toBe(1);
    expect(Buffer.concat(chunks).length).toBeGreaterThan(12_000);
  });
});
