/**
 * A device that writes guest memory as often as it is told to and measures itself. Served by either transport
 * (`node dist/bench/dirty-log-device.js SOCKET [library]`); dirty-log-libvfio-user.c is the same device in C.
 */
import { fileURLToPath } from 'node:url';
import { defineModel, RegisterBlock } from '../src/device/index.ts';
import { silentLogger } from '../src/log.ts';
import { createReactor } from '../src/loop/index.ts';
import { DeviceRuntime } from '../src/runtime/device-runtime.ts';
import { libraryVariable, locateLibvfioUser } from '../src/setup/libvfio-user.ts';
import { LibvfioUserServer } from '../src/transport/libvfio-user/index.ts';
import { NativeServer } from '../src/transport/native/index.ts';

/** BAR 0. The i-th write goes to BASE + (i * STRIDE) mod SPAN; STRIDE is below SPAN. */
export const registers = {
  BASE: { offset: 0x00, width: 8, access: 'rw', about: 'where in guest memory' },
  STRIDE: { offset: 0x08, width: 8, access: 'rw', about: 'bytes from one write to the next' },
  SPAN: { offset: 0x10, width: 8, access: 'rw', about: 'bytes after which they begin again' },
  LENGTH: { offset: 0x18, width: 8, access: 'rw', about: 'bytes of a write, at most 4096' },
  START: { offset: 0x20, width: 8, access: 'trigger', about: 'does as many writes' },
  NANOSECONDS: { offset: 0x28, width: 8, access: 'ro', about: 'how long they took together' },
} as const;

const writer = defineModel({
  name: 'writer',
  description: 'writes guest memory, for measurements',
  stateVersion: 1,
  options: {},
  pci: () => ({
    vendorId: 0x1b36,
    deviceId: 0x11ef,
    classCode: 0xff0000,
    bars: { 0: { size: 0x1000, kind: 'memory32' } },
  }),
  create(host) {
    const source = Buffer.alloc(4096);
    const bank = new RegisterBlock(registers, { START: { write: (count) => run(Number(count)) } });

    function run(count: number): void {
      const [base, stride, span] = [bank.get('BASE'), bank.get('STRIDE'), bank.get('SPAN')];
      const bytes = source.subarray(0, bank.get('LENGTH'));
      const { dma } = host;
      const begin = process.hrtime.bigint();
      for (let i = 0, at = 0; i < count; i++) {
        dma.write(base + at, bytes);
        at += stride;
        if (at >= span) at -= span;
      }
      bank.set('NANOSECONDS', Number(process.hrtime.bigint() - begin));
    }

    return {
      bars: { 0: bank },
      reset: () => bank.reset(),
      migration: {
        p2p: true,
        geometry: {},
        estimate: () => 128,
        save: () => [{ section: 'registers', value: bank.save() }],
        beginLoad: () => bank.reset(),
        load: (record) => bank.load('value' in record ? record.value : undefined),
        endLoad: () => {},
      },
    };
  },
});

async function serve(path: string, libraryPath: string | undefined): Promise<void> {
  const reactor = createReactor();
  const log = silentLogger;
  const device = new DeviceRuntime(writer, { reactor, log });
  const library =
    libraryPath === undefined ? undefined : locateLibvfioUser({ [libraryVariable]: libraryPath });
  const server =
    library === undefined
      ? new NativeServer({ reactor, device, path, role: 'device', log })
      : new LibvfioUserServer({ reactor, device, path, log, library });
  process.once('SIGTERM', () => reactor.stop());
  await reactor.run();
  server.close();
  device.close();
  reactor.close();
}

const [, self, path, library] = process.argv;
if (self === fileURLToPath(import.meta.url) && path !== undefined) await serve(path, library);
