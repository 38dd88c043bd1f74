import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { pack } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { migrationState as s } from '../../../src/migration/index.ts';
import { type Chunk, chunkBytes, cut, join, renumber } from './chunks.ts';
import { FakeDevice, fakeMigration, readAll } from './fake-device.ts';

const memorySize = 8192;

function fill(device: FakeDevice): FakeDevice {
  for (let i = 0; i < device.memory.length; i++) device.memory[i] = (i * 7) % 253;
  return device;
}

/** A stream of a precopy with one restart in it: every type of chunk. */
function precopyStream(): Buffer {
  const device = fill(new FakeDevice({ memorySize }));
  const { controller } = fakeMigration(device);
  controller.setState(s.PRE_COPY);
  const target = Buffer.alloc(6000);
  const first = target.subarray(0, controller.read(target));
  controller.deviceWasReset();
  const second = readAll(controller);
  controller.setState(s.STOP_COPY);
  return Buffer.concat([first, second, readAll(controller)]);
}

function plainStream(): Buffer {
  const { controller } = fakeMigration(fill(new FakeDevice({ memorySize })));
  controller.setState(s.STOP_COPY);
  return readAll(controller);
}

const streams = [precopyStream(), plainStream()];
const plain = streams[1] as Buffer;

/** Loads; 'loaded', or the message of the refusal after checking that the device is in ERROR and recovers. */
function load(bytes: Buffer, cuts: readonly number[] = []): string {
  const device = new FakeDevice({ memorySize });
  const { controller, calls } = fakeMigration(device);
  controller.setState(s.RESUMING);
  let message = 'loaded';
  try {
    let at = 0;
    for (const end of [...cuts, bytes.length]) {
      controller.write(bytes.subarray(at, end));
      at = end;
    }
    controller.setState(s.STOP);
  } catch (error) {
    message = (error as Error).message;
    if ((error as { code?: string }).code !== 'VC_STATE_REFUSED') throw error;
    if (controller.state !== s.ERROR) throw new Error(`state ${controller.state} after: ${message}`);
    if (device.loaded === 'yes' || calls.includes('resume')) throw new Error(`went live after: ${message}`);
    device.reset();
    controller.reset();
    if (Number(controller.state) !== s.RUNNING) throw new Error('a reset did not help');
    return message;
  }
  expect(device.memory.equals(fill(new FakeDevice({ memorySize })).memory)).toBe(true);
  expect(device.registers).toEqual(new FakeDevice().registers);
  return message;
}

describe('a sound stream', () => {
  it('has every type of chunk in these tests', () => {
    const types = new Set(cut(streams[0] as Buffer).map(({ type }) => type));
    expect([...types].sort()).toEqual([1, 2, 3, 4, 5, 6]);
    for (const stream of streams) expect(join(stream, cut(stream)).equals(stream)).toBe(true);
  });

  it('loads however it is cut', () => {
    for (const stream of streams) {
      expect(load(stream)).toBe('loaded');
      expect(load(stream, Array.from(stream.keys()))).toBe('loaded');
      fc.assert(
        fc.property(fc.array(fc.nat(stream.length), { maxLength: 30 }), (cuts) => {
          expect(
            load(
              stream,
              cuts.sort((a, b) => a - b),
            ),
          ).toBe('loaded');
        }),
        { numRuns: 200 },
      );
    }
  });

  it('is the same however it is read', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1 }), (sizes) => {
        const { controller } = fakeMigration(fill(new FakeDevice({ memorySize })));
        controller.setState(s.STOP_COPY);
        const parts: Buffer[] = [];
        for (let i = 0; ; i++) {
          const target = Buffer.alloc(sizes[i % sizes.length] ?? 1);
          const count = controller.read(target);
          parts.push(target.subarray(0, count));
          if (count < target.length) break;
        }
        expect(Buffer.concat(parts).equals(plain)).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  it('may have chunks of unknown types that are marked skippable', () => {
    const [header, ...rest] = cut(plain);
    const end = rest.pop() as Chunk;
    const unknown = { ...(header as Chunk), type: 77, flags: 1, payload: Buffer.from('later') };
    const chunks = renumber([header as Chunk, unknown, ...rest, end]);
    expect(load(join(plain, chunks))).toContain('the end of the state says');
    // With totals that fit (independent of the encoder) it loads.
    expect(load(join(plain, [...chunks.slice(0, -1), endFor(chunks.slice(0, -1))]))).toBe('loaded');
    unknown.flags = 0;
    expect(load(join(plain, renumber([header as Chunk, unknown])))).toContain('type 77');
  });
});

it('a restart after framework sections forgets these too', () => {
  const chunks = cut(plain);
  const body = chunks.slice(1, -1);
  const restart: Chunk = { ...(chunks[0] as Chunk), type: 5, payload: Buffer.alloc(0) };
  const again = body.filter(({ type }) => type !== 2);
  const all = renumber([chunks[0] as Chunk, ...body, restart, ...again]);
  expect(load(join(plain, [...all, endFor(all)]))).toBe('loaded');
  const without = renumber([chunks[0] as Chunk, ...body, restart, ...again.slice(0, -1)]);
  expect(load(join(plain, [...without, endFor(without)]))).toContain('no section "pci"');
});

/** The end chunk that fits the chunks given. */
function endFor(chunks: readonly Chunk[]): Chunk {
  const sums = chunks.map((chunk) => chunkBytes(chunk).subarray(-4));
  return {
    type: 6,
    flags: 0,
    section: 0,
    sequence: chunks.length,
    offset: 0n,
    disposition: 0,
    payload: pack({
      chunks: chunks.length,
      bytes: chunks.reduce((sum, { payload }) => sum + payload.length, 0),
      digest: crc32(Buffer.concat(sums)),
    }),
  };
}

describe('a damaged stream is refused, the device ends in ERROR and recovers by a reset', () => {
  it('truncated anywhere', () => {
    for (const stream of streams) {
      for (let end = 0; end < stream.length; end += end % 600 < 60 ? 1 : 17) {
        expect(load(stream.subarray(0, end)), `at ${end}`).not.toBe('loaded');
      }
    }
  });

  it('with any byte changed', () => {
    for (const stream of streams) {
      fc.assert(
        fc.property(fc.nat(stream.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
          const bytes = Buffer.from(stream);
          bytes[at] = (bytes[at] ?? 0) ^ change;
          expect(load(bytes), `at ${at}`).not.toBe('loaded');
        }),
        { numRuns: 1000 },
      );
    }
  });

  it('with chunks left out, repeated, exchanged, or from another stream', () => {
    for (const stream of streams) {
      const chunks = cut(stream);
      for (let i = 0; i < chunks.length; i++) {
        expect(load(join(stream, chunks.toSpliced(i, 1)))).not.toBe('loaded');
        expect(load(join(stream, chunks.toSpliced(i, 0, chunks[i] as Chunk)))).not.toBe('loaded');
        // Numbered anew: the totals of the end tell.
        expect(load(join(stream, renumber(chunks.toSpliced(i, 1))))).not.toBe('loaded');
        expect(load(join(stream, renumber(chunks.toSpliced(i, 0, chunks[i] as Chunk))))).not.toBe('loaded');
        for (let j = i + 1; j < chunks.length; j++) {
          const exchanged = chunks.with(i, chunks[j] as Chunk).with(j, chunks[i] as Chunk);
          expect(load(join(stream, exchanged))).not.toBe('loaded');
        }
      }
    }
    const [a, b] = streams.map(cut) as [Chunk[], Chunk[]];
    expect(load(join(plain, [...a.slice(0, 3), ...b.slice(3)]))).not.toBe('loaded');
  });

  it('with bytes after the end, or another stream', () => {
    expect(load(Buffer.concat([plain, Buffer.from([0])]))).toContain('follow the end');
    expect(load(Buffer.concat([plain, plain]), [plain.length])).toContain('follow the end');
    expect(load(Buffer.alloc(1000))).toContain('no vfio-companion state');
  });
});

describe('a hostile stream with right checksums is refused', () => {
  const [header, section] = cut(plain) as [Chunk, Chunk];
  const cases: Record<string, readonly Partial<Chunk>[]> = {
    'claims 4 GB': [{ ...header, length: 0xffffffff }],
    'a long header': [{ ...header, payload: Buffer.alloc(70_000) }],
    'claims more than fits in a chunk': [
      header,
      section,
      { ...section, type: 4, sequence: 2, length: 2 ** 22 + 1 },
    ],
    'no header': [{ ...section, sequence: 0 }],
    'two headers': [header, { ...header, sequence: 1 }],
    'a header that is no record': [{ ...header, payload: pack([1, 2]) }],
    'a header without fields': [{ ...header, payload: pack({}) }],
    'geometry that is nested': [
      {
        ...header,
        payload: pack({
          model: 'fake',
          stateVersion: 2,
          geometry: { a: {} },
          requires: [],
          frameworkVersion: 1,
          pageSize: 1,
        }),
      },
    ],
    'a section that was not named': [
      header,
      { ...section, type: 3, section: 9, payload: pack(1), sequence: 1 },
    ],
    'a section named twice': [header, section, { ...section, sequence: 2 }],
    'a section without a name': [header, { ...section, payload: Buffer.alloc(0) }],
    'a name that is not UTF-8': [header, { ...section, payload: Buffer.from([0xff, 0xfe]) }],
    'a name that is too long': [header, { ...section, payload: Buffer.alloc(65, 'a') }],
    'an unknown section': [
      header,
      { ...section, payload: Buffer.from('boo') },
      { ...section, type: 3, section: 0, payload: pack(1), sequence: 2 },
    ],
    'an unknown framework section': [
      header,
      { ...section, payload: Buffer.from('@boo') },
      { ...section, type: 3, section: 0, payload: pack(1), sequence: 2 },
    ],
    'a framework section twice': [
      header,
      { ...section, payload: Buffer.from('@pci') },
      { ...section, type: 3, section: 0, payload: pack(1), sequence: 2 },
      { ...section, type: 3, section: 0, payload: pack(1), sequence: 3 },
    ],
    'a framework section in bulk': [
      header,
      { ...section, payload: Buffer.from('@pci') },
      { ...section, type: 4, section: 0, payload: Buffer.alloc(4), sequence: 2 },
    ],
    'bulk beyond the device': [
      header,
      section,
      { ...section, type: 4, offset: 8192n, payload: Buffer.alloc(1), sequence: 2 },
    ],
    'an offset that is no number': [
      header,
      section,
      { ...section, type: 4, offset: 2n ** 64n - 1n, payload: Buffer.alloc(1), sequence: 2 },
    ],
    'reserved bits': [{ ...header, reserved: 1 }],
    'unknown flags': [{ ...header, flags: 2 }],
    'an offset where none belongs': [{ ...header, offset: 5n }],
    'a header to be dropped': [{ ...header, disposition: 1 }],
    'an unknown disposition': [
      header,
      section,
      { ...section, type: 4, payload: Buffer.alloc(1), disposition: 2, sequence: 2 },
    ],
    'a restart with contents': [header, { ...section, type: 5, sequence: 1 }],
    'an end at once': [header, { ...section, type: 6, payload: pack({ chunks: 1 }), sequence: 1 }],
  };
  it.each(Object.keys(cases))('%s', (name) => {
    const chunks = (cases[name] ?? []) as Chunk[];
    expect(load(join(plain, chunks))).not.toMatch(/^loaded|not complete/);
  });

  it('complete, but without a framework section', () => {
    const chunks = cut(plain).slice(0, -3);
    expect(load(join(plain, [...chunks, endFor(chunks)]))).toContain('no section "pci"');
  });

  it('complete, but contradictory for the device', () => {
    const chunks = cut(plain).map((chunk) =>
      chunk.type === 3 && chunk.section === 1 ? { ...chunk, payload: pack({ control: 'x' }) } : chunk,
    );
    expect(load(join(plain, [...chunks.slice(0, -1), endFor(chunks.slice(0, -1))]))).toContain(
      'control is no number',
    );
  });

  it('of random chunks', () => {
    const chunk = fc.record({
      type: fc.integer({ min: 0, max: 8 }),
      flags: fc.constantFrom(0, 0, 0, 1, 255),
      section: fc.constantFrom(0, 0, 1, 700),
      offset: fc.constantFrom(0n, 4096n, 2n ** 53n),
      payload: fc.oneof(
        fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
        fc.constantFrom(pack({ a: 1 }), Buffer.from('memory'), Buffer.alloc(0)),
      ),
      disposition: fc.constantFrom(0, 0, 0, 1),
    });
    fc.assert(
      fc.property(fc.array(chunk, { maxLength: 6 }), fc.nat(3), (tail, keep) => {
        const chunks = renumber([...cut(plain).slice(0, keep), ...tail.map((c) => ({ ...c, sequence: 0 }))]);
        expect(load(join(plain, chunks))).not.toBe('loaded');
      }),
      { numRuns: 1500 },
    );
  });
});

describe('a state that does not fit is refused as soon as its header is in', () => {
  function refusal(
    change: Parameters<typeof fakeMigration>[1],
    device = new FakeDevice({ memorySize }),
  ): string {
    const { controller } = fakeMigration(device, change);
    controller.setState(s.RESUMING);
    const headerEnd = 16 + 28 + (cut(plain)[0]?.payload.length ?? 0) + 8;
    controller.write(plain.subarray(0, headerEnd - 1));
    expect(controller.state).toBe(s.RESUMING);
    let message = '';
    try {
      controller.write(plain.subarray(headerEnd - 1, headerEnd));
    } catch (error) {
      message = (error as Error).message;
      expect(controller.state).toBe(s.ERROR);
    }
    expect(device.loaded).toBe(message === '' ? 'loading' : 'no');
    return message;
  }

  it('naming what differs', () => {
    expect(refusal({})).toBe('');
    expect(refusal({ model: { name: 'other', stateVersion: 2 } })).toBe(
      'the state is of the model "fake", this device is "other"',
    );
    expect(refusal({ model: { name: 'fake', stateVersion: 1 } })).toContain('version 2, this device loads 1');
    expect(refusal({ model: { name: 'fake', stateVersion: 4, loadsVersions: [3] } })).toContain('loads 3, 4');
    expect(refusal({ model: { name: 'fake', stateVersion: 4, loadsVersions: [2] } })).toBe('');
    expect(refusal({}, new FakeDevice({ memorySize: 4096 }))).toContain(
      'memorySize is 8192 there and 4096 here',
    );
  });

  it('in few words, whatever the stream says', () => {
    const [header] = cut(plain) as [Chunk];
    const fields = { model: 'fake', stateVersion: 2, requires: [], frameworkVersion: 1, pageSize: 1 };
    const geometry = Object.fromEntries(
      Array.from({ length: 2000 }, (_, i) => [`\u001b[2Jkey${i}`, 'x'.repeat(9)]),
    );
    const many = load(join(plain, [{ ...header, payload: pack({ ...fields, geometry }) }]));
    expect(many).toContain('and 1993 more');
    expect(many).not.toContain('\u001b');
    const long = load(
      join(plain, [{ ...header, payload: pack({ ...fields, geometry: {}, model: 'm'.repeat(9999) }) }]),
    );
    expect(long.length).toBeLessThan(300);
  });

  it('because of a feature that is not known, or a newer framework', () => {
    const [header] = cut(plain) as [Chunk];
    const fields = {
      model: 'fake',
      stateVersion: 2,
      geometry: { memorySize },
      frameworkVersion: 1,
      pageSize: 1,
    };
    const payload = (change: object) => pack({ ...fields, requires: [], ...change });
    expect(
      load(join(plain, [{ ...header, payload: payload({ requires: ['restart', 'magic'] }) }])),
    ).toContain('unknown feature "magic"');
    expect(load(join(plain, [{ ...header, payload: payload({ frameworkVersion: 2 }) }]))).toContain(
      'version 2',
    );
  });
});
