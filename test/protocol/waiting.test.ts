import { afterEach, describe, expect, it } from 'vitest';
import { errno } from '../../src/errors.ts';
import { silentLogger } from '../../src/log.ts';
import { createReactor } from '../../src/loop/index.ts';
import { closeFd, recvMessage, sendMessage, socketPair } from '../../src/posix/index.ts';
import { NativeServer } from '../../src/transport/native/index.ts';
import { operations, type Pending, type VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { command, headerFlags, pciRegion } from '../../src/vfio-user/constants.ts';
import {
  encodeError,
  encodeReply,
  encodeRequest,
  messages,
  readHeader,
} from '../../src/vfio-user/messages.ts';
import { errnoThrownBy } from '../thrown.ts';
import { FakeDevice } from './fake-device.ts';
import { type RunningServer, type ServerOptions, serversUnderTest } from './harness.ts';

const { regionRead, regionWrite, irqInfo, dmaMap, reset } = operations;
const iova = 0x10_0000;

describe.each(serversUnderTest)('$name server, while the device waits for DMA', (under) => {
  let server: RunningServer;
  let device: FakeDevice;
  let client: VfioUserClient;
  let memory: Buffer;
  const start = (options: ServerOptions = {}) => {
    device = new FakeDevice();
    server = under.serve(device, options);
    client = server.connect();
    memory = Buffer.alloc(64 * 1024, 0xab);
    client.dmaMap({ iova, size: memory.length, prot: 3, bytes: memory });
  };
  afterEach(() => server.close());

  /** A write to offset 0 of region 0 makes the device read guest memory by message. */
  const dmaOnWrite = () => {
    device.onWrite = (region, offset) => {
      if (region !== 0 || offset !== 0) return;
      const bytes = Buffer.alloc(16);
      device.link?.dma.read(iova, bytes);
      device.calls.push(`dma ${bytes[0]}`);
    };
  };

  /** Runs `ask` when the server's first DMA message arrives, before it is answered. */
  const onFirstDma = (ask: () => void) => {
    client.onDma = () => {
      client.onDma = undefined;
      ask();
    };
  };

  it('gives a wait up for a reset: QEMU answers no DMA before that', () => {
    start();
    device.onWrite = (region, offset) => {
      if (region !== 0 || offset !== 0) return;
      const { dma } = device.link ?? {};
      const thrown = [0, 1].map(() => errnoThrownBy(() => dma?.read(iova, Buffer.alloc(16))));
      device.calls.push(`dma ${thrown}`);
    };
    client.deaf = true;
    client.post(regionWrite(0, 0, Buffer.from([1])));
    const answered = client.submit(reset());
    server.turn();
    // The second attempt comes before the device has unwound: it must not wait either.
    const cancelled = `dma ${errno.ECANCELED},${errno.ECANCELED}`;
    expect(device.calls.filter((call) => /dma|reset/.test(call))).toEqual([cancelled, 'reset']);
    client.deaf = false;
    answered.wait();
    client.regionWrite(0, 0, Buffer.from([1]));
    server.turn();
    expect(device.calls.at(-1)).toBe('dma ,');
  });

  it('resets before it does what was asked for after that', () => {
    start();
    dmaOnWrite();
    const config = Buffer.from([3]);
    onFirstDma(() => {
      client.post(regionWrite(pciRegion.config, 4, config));
      client.submit(reset());
      client.post(regionWrite(pciRegion.config, 5, config));
    });
    client.post(regionWrite(0, 0, Buffer.alloc(4)));
    server.turn();
    const changes = device.calls.filter((call) => /write 7|reset/.test(call));
    expect(changes).toEqual(['write 7:4', 'reset', 'write 7:5']);
  });

  it('serves reads, config writes, info, maps at once, and other writes afterwards in order', () => {
    start();
    dmaOnWrite();
    device.memory[0]?.writeUInt32LE(0xcafe, 8);
    const order: string[] = [];
    const pending = new Map<string, Pending<unknown>>();
    onFirstDma(() => {
      pending.set('write 1', client.submit(regionWrite(0, 0x10, Buffer.from([1]))));
      client.post(regionWrite(0, 0x11, Buffer.from([2])));
      pending.set('config', client.submit(regionWrite(pciRegion.config, 4, Buffer.from([3]))));
      pending.set('read', client.submit(regionRead(0, 8, 4)));
      pending.set('irq', client.submit(irqInfo(2)));
      pending.set('map', client.submit(dmaMap({ iova: 0x90_0000, size: 4096, prot: 3 })));
      pending.set('reset', client.submit(reset()));
      pending.set('write 2', client.submit(regionWrite(0, 0x12, Buffer.from([4]))));
    });
    device.onReset = () => {
      client.poll();
      const answered = [...pending].filter(([, request]) => request.done);
      order.push(answered.map(([name]) => name).join());
    };
    client.regionWrite(0, 0, Buffer.alloc(4));
    for (const [name, request] of pending) {
      const result = request.wait();
      if (name === 'read') expect((result as Buffer).readUInt32LE(0)).toBe(0xcafe);
    }
    server.turn();
    expect(device.calls).toEqual([
      'attach',
      'write 0:0',
      'write 7:4',
      'write 0:10',
      'write 0:11',
      'reset',
      'write 0:12',
    ]);
    expect(device.maps.has(0x90_0000)).toBe(true);
    // Everything in front of the reset had been answered before it ran; the library answers that as well.
    const early = under.kind === 'libvfio-user' ? ',reset' : '';
    expect(order).toEqual([`write 1,config,read,irq,map${early}`]);
  });

  it('has answered the maps that came before it, all of them', () => {
    start();
    dmaOnWrite();
    const maps = [0, 1, 2].map((n) =>
      client.submit(dmaMap({ iova: 0x90_0000 + n * 4096, size: 4096, prot: 3 })),
    );
    let answered: boolean[] = [];
    onFirstDma(() => {
      client.poll();
      answered = maps.map(({ done }) => done);
    });
    client.post(regionWrite(0, 0, Buffer.alloc(4)));
    server.turn();
    expect(answered).toEqual([true, true, true]);
    expect(device.calls).toContain('dma 171');
  });

  it('does what was left after a wait that no request began', () => {
    start();
    onFirstDma(() => client.post(regionWrite(0, 0x10, Buffer.from([1]))));
    device.link?.dma.read(iova, Buffer.alloc(4));
    expect(device.calls).toEqual(['attach']);
    server.turn();
    expect(device.calls).toEqual(['attach', 'write 0:10']);
  });

  it('keeps the bytes of the write under way while more than a buffer arrives', () => {
    // That takes a busy machine a while, all of it inside one wait.
    start({ dmaTimeoutMs: 15_000, messagePatienceMs: 15_000 });
    const first = Buffer.from(Uint8Array.from({ length: 4096 }, (_, i) => i * 3));
    device.onWrite = (region, offset) => {
      if (region === 0 && offset === 0) device.link?.dma.read(iova, Buffer.alloc(4));
    };
    onFirstDma(() => {
      for (let i = 0; i < 40; i++) client.post(regionWrite(1, 0, Buffer.alloc(60_000, i)));
    });
    client.regionWrite(0, 0, first);
    server.turn();
    expect(device.memory[0]?.equals(first)).toBe(true);
    expect(device.calls.filter((call) => call === 'write 1:0')).toHaveLength(40);
    expect(device.memory[1]?.[0]).toBe(39);
  });

  it('refuses to wait inside a register read, and before a request is answered', () => {
    start();
    let seen: unknown[] = [];
    device.onRead = () => {
      seen = [device.link?.dma.mayWait, errnoThrownBy(() => device.link?.dma.read(iova, Buffer.alloc(4)))];
    };
    client.readRegister(0, 0);
    expect(seen).toEqual([false, errno.EAGAIN]);
    seen = [];
    device.onReset = () => {
      seen = [device.link?.dma.mayWait];
    };
    client.reset();
    expect(seen).toEqual([false]);
    expect(device.link?.dma.mayWait).toBe(true);
  });

  it('gives up on a silent client, and drops its late reply', () => {
    start({ dmaTimeoutMs: 30 });
    client.deaf = true;
    const begin = performance.now();
    expect(errnoThrownBy(() => device.link?.dma.read(iova, Buffer.alloc(4)))).toBe(errno.ETIMEDOUT);
    expect(performance.now() - begin).toBeGreaterThan(25);
    client.deaf = false;
    client.poll();
    expect(client.readRegister(0, 0)).toBe(0);
    const bytes = Buffer.alloc(4);
    device.link?.dma.read(iova, bytes);
    expect(bytes[0]).toBe(0xab);
  });

  it('gives up on a client that asks for more and more, and answers nothing', () => {
    // Not for ever, so that a server that waits on fails this test.
    let left = 50_000;
    start({
      dmaTimeoutMs: 20,
      whileWaiting: () => {
        if (left-- > 0) client.post(regionRead(0, 0, 4));
        else client.deaf = false;
        client.poll();
      },
    });
    client.deaf = true;
    expect(errnoThrownBy(() => device.link?.dma.read(iova, Buffer.alloc(4)))).toBe(errno.ETIMEDOUT);
  });

  it('gives up also on one whose next request is there as soon as one is served', () => {
    let left = 50_000;
    start({ dmaTimeoutMs: 20 });
    client.deaf = true;
    device.onRead = () => {
      if (left-- > 0) client.post(regionRead(0, 0, 4));
    };
    client.post(regionRead(0, 0, 4));
    expect(errnoThrownBy(() => device.link?.dma.read(iova, Buffer.alloc(4)))).toBe(errno.ETIMEDOUT);
    expect(left).toBeGreaterThan(0);
  });

  it('ends the wait when the client leaves, and detaches once it is over', () => {
    start();
    let seen: unknown[] = [];
    device.onWrite = () => {
      const thrown = errnoThrownBy(() => device.link?.dma.read(iova, Buffer.alloc(4)));
      seen = [thrown, device.calls.includes('detach')];
    };
    onFirstDma(() => client.close());
    client.post(regionWrite(0, 0, Buffer.alloc(4)));
    server.turn();
    expect(seen).toEqual([errno.ENOTCONN, false]);
    expect(device.calls).toEqual(['attach', 'write 0:0', 'detach']);
  });

  it('tells the errors of the client apart', () => {
    start();
    const dma = device.link?.dma;
    client.dmaMap({ iova: 0x90_0000, size: 4096, prot: 1, bytes: Buffer.alloc(4096) });
    expect(errnoThrownBy(() => dma?.write(0x90_0000, Buffer.alloc(4)))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => dma?.read(0xdead_0000, Buffer.alloc(4)))).toBe(errno.ENODEV);
  });

  it('splits by what the client takes, keeping a window of messages in flight', () => {
    device = new FakeDevice();
    server = under.serve(device, { dmaWindow: 4 });
    client = server.connect({ capabilities: { maxDataXferSize: 1000 } });
    memory = Buffer.from(Uint8Array.from({ length: 10_500 }, (_, i) => i * 11));
    client.dmaMap({ iova, size: memory.length, prot: 3, bytes: memory });
    const counts: number[] = [];
    client.onDma = ({ count }) => counts.push(count);
    const back = Buffer.alloc(memory.length);
    device.link?.dma.read(iova, back);
    expect(back.equals(memory)).toBe(true);
    expect(counts).toEqual([...Array(10).fill(1000), 500]);
  });

  it('asks for no more at once than QEMU can answer without a short write', () => {
    start();
    memory = Buffer.from(Uint8Array.from({ length: 500_000 }, (_, i) => i * 13));
    client.dmaMap({ iova: 0x100_0000, size: memory.length, prot: 3, bytes: memory });
    const counts: number[] = [];
    client.onDma = ({ count }) => counts.push(count);
    const back = Buffer.alloc(memory.length);
    device.link?.dma.read(0x100_0000, back);
    expect(back.equals(memory)).toBe(true);
    expect(Math.max(...counts.filter((count) => count < 2 ** 32))).toBe(32 * 1024);
  });

  it('writes single bytes in batches and reports each failure', () => {
    start();
    const addresses = Float64Array.from({ length: 1000 }, (_, i) => iova + i * 64);
    addresses[500] = 0xdead_0000;
    addresses[700] = 0xdead_1000;
    const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i);
    const results = new Int32Array(1000).fill(-1);
    const outcome = device.link?.dma.writeByteBatch?.(addresses, 1000, bytes, results);
    expect(outcome).toEqual({ failed: 2, firstErrno: errno.ENODEV });
    expect([results[0], results[500], results[700], results[999]]).toEqual([
      0,
      errno.ENODEV,
      errno.ENODEV,
      0,
    ]);
    expect(memory[64 * 999]).toBe(999 & 0xff);
    expect(memory[64 * 500]).toBe(0xab);
  });

  it('posts pieces of one and two bytes, asks for few replies and hears of every refusal', () => {
    start();
    const count = 2000;
    const addresses = Float64Array.from({ length: count }, (_, i) => iova + i * 32);
    const lengths = Uint8Array.from({ length: count }, (_, i) => 1 + (i % 2));
    const bytes = Uint8Array.from({ length: 2 * count }, (_, i) => i % 251);
    const seen: number[] = [];
    const replies: number[] = [];
    client.onDma = ({ count: length, iova: at, answered: reply }) => {
      seen.push(length);
      if (reply && at >= iova) replies.push((at - iova) / 32);
    };
    const answered = Uint8Array.from({ length: count }, (_, i) => (i % 300 === 7 ? 1 : 0));
    const post = () => device.link?.dma.postBatch?.(addresses, lengths, bytes, count, answered);
    expect(post()).toBe(true);
    expect(seen.filter((length) => length < 2 ** 32)).toEqual([...lengths]);
    // One in 512 and the last, and those that were wanted.
    expect(replies).toEqual([7, 307, 511, 607, 907, 1023, 1207, 1507, 1535, 1807, 1999]);
    expect([...memory.subarray(32 * 1999, 32 * 1999 + 3)]).toEqual([3998 % 251, 3999 % 251, 0xab]);
    expect([...memory.subarray(32 * 1998, 32 * 1998 + 2)]).toEqual([3996 % 251, 0xab]);
    // One that is posted, and the last, which is not.
    for (const at of [700, count - 1]) {
      const saved = addresses[at] ?? 0;
      addresses[at] = 0xdead_0000;
      expect(post()).toBe(false);
      addresses[at] = saved;
      expect(post()).toBe(true);
    }
  });
});

describe('native server, the 32-bit DMA messages of QEMU 10.1', () => {
  /** A client that answers DMA by `answer`, below the level at which ours could be told to misbehave. */
  function serveWith(answer: (id: number, cmd: number, count32: number, count64: bigint) => Buffer) {
    const [ours, theirs] = socketPair();
    const reactor = createReactor({ busyWaitNs: 0 });
    const device = new FakeDevice();
    const buffer = Buffer.alloc(65536);
    const server = new NativeServer({
      reactor,
      device,
      role: 'device',
      log: silentLogger,
      whileWaiting: () => {
        const length = recvMessage(theirs, buffer, 0, buffer.length, [], false);
        for (let at = 0; at < length; ) {
          const { id, command: cmd, size } = readHeader(buffer, at);
          const reply = answer(id, cmd, buffer.readUInt32LE(at + 24), buffer.readBigUInt64LE(at + 24));
          sendMessage(theirs, reply, reply.length, undefined, undefined, false);
          at += size;
        }
      },
    });
    server.adopt(ours);
    const capabilities = '{"capabilities":{"pgsizes":4096,"max_dma_maps":65535}}\0';
    const hello = encodeRequest(messages.VERSION, 1, { major: 0, minor: 0 }, Buffer.from(capabilities));
    sendMessage(theirs, hello, hello.length, undefined, undefined, true);
    reactor.turn(0);
    recvMessage(theirs, buffer, 0, buffer.length, [], true);
    const close = () => {
      server.close();
      reactor.close();
      closeFd(theirs);
    };
    return { device, close };
  }

  it('is recognised and refused before any data moves', () => {
    const asked: number[] = [];
    const { device, close } = serveWith((id, cmd, count32) => {
      asked.push(cmd);
      return encodeReply(messages.DMA_READ, id, { addr: 0, count: count32 }, Buffer.alloc(count32));
    });
    expect(errnoThrownBy(() => device.link?.dma.write(0x1000, Buffer.from([1, 2, 3])))).toBe(errno.EPROTO);
    expect(errnoThrownBy(() => device.link?.dma.read(0x1000, Buffer.alloc(4)))).toBe(errno.EPROTO);
    expect(asked).toEqual([command.DMA_READ]);
    close();
  });

  it('are not sent by what comes in between either, before it is known', () => {
    const asked: number[] = [];
    const write = encodeRequest(
      messages.REGION_WRITE,
      7,
      { offset: 4, region: pciRegion.config, count: 1 },
      Buffer.from([6]),
      headerFlags.noReply,
    );
    const { device, close } = serveWith((id, cmd, count32) => {
      const reply = encodeReply(messages.DMA_READ, id, { addr: 0, count: count32 }, Buffer.alloc(count32));
      asked.push(cmd);
      return asked.length === 1 ? Buffer.concat([write, reply]) : reply;
    });
    const thrown: unknown[] = [];
    device.onWrite = () => {
      thrown.push(errnoThrownBy(() => device.link?.dma.write(0x2000, Buffer.from([4]))));
    };
    expect(errnoThrownBy(() => device.link?.dma.write(0x1000, Buffer.from([1, 2, 3])))).toBe(errno.EPROTO);
    expect(thrown).toEqual([errno.EPROTO]);
    expect(asked).not.toContain(command.DMA_WRITE);
    close();
  });

  it('is not seen in a client that follows the specification', () => {
    const { device, close } = serveWith((id, cmd, _count32, count64) =>
      count64 > 2n ** 20n
        ? encodeError(id, cmd, errno.E2BIG)
        : encodeReply(messages.DMA_WRITE, id, { addr: 0x1000, count: Number(count64) }),
    );
    expect(errnoThrownBy(() => device.link?.dma.write(0x1000, Buffer.from([1, 2, 3])))).toBeUndefined();
    close();
  });

  it('refuses replies that do not fit the request', () => {
    const { device, close } = serveWith((id, cmd, _count32, count64) =>
      count64 > 2n ** 20n
        ? encodeError(id, cmd, errno.E2BIG)
        : encodeReply(messages.DMA_READ, id, { addr: 0x2000, count: 4 }, Buffer.alloc(4)),
    );
    expect(errnoThrownBy(() => device.link?.dma.read(0x1000, Buffer.alloc(4)))).toBe(errno.EPROTO);
    close();
  });
});
