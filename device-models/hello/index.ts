import { defineModel, RegisterBlock, type StateRecord } from '../../src/device/index.ts';

/** BAR 0. The guest gives an address and a length and rings; the device writes its greeting there. */
const registers = {
  ID: { offset: 0x00, width: 4, access: 'ro', reset: 0x6f6c6c65, about: '"ello"' },
  ADDRESS: { offset: 0x08, width: 8, access: 'rw', about: 'where in guest memory' },
  LENGTH: { offset: 0x10, width: 4, access: 'rw', about: 'bytes of room there' },
  DOORBELL: { offset: 0x14, width: 4, access: 'trigger', about: 'any write starts' },
  STATUS: { offset: 0x18, width: 4, access: 'ro', about: 'see `status`' },
} as const;

/** `rung`: it will be answered when the device may write again. */
const status = { idle: 0, done: 1, failed: 2, rung: 3 } as const;

/** The smallest device worth reading: registers, one BAR, an interrupt, a DMA. */
export const hello = defineModel({
  name: 'hello',
  description: 'writes a greeting into guest memory and interrupts: the example of docs/writing-a-device.md',
  stateVersion: 1,
  options: { greeting: { type: 'string', default: 'Hello, guest!', description: 'what it says' } },

  pci: () => ({
    vendorId: 0x1b36, // Red Hat's id for QEMU's own example devices
    deviceId: 0x11e0,
    classCode: 0xff0000,
    bars: { 0: { size: 0x2000, kind: 'memory32' } },
    capabilities: {
      msix: { vectors: 1, table: { bar: 0, offset: 0x1000 }, pba: { bar: 0, offset: 0x1800 } },
    },
  }),

  create(host, options) {
    const greeting = Buffer.from(options.greeting);
    const bank = new RegisterBlock(registers, { DOORBELL: { write: () => greet() } });

    function greet(): void {
      // In the middle of a migration: whatever side it goes on at.
      if (!host.mayInitiate) {
        bank.set('STATUS', status.rung);
        return;
      }
      // Not a bus master: no DMA, and no message to interrupt with.
      if (!host.pci.busMaster) {
        bank.set('STATUS', status.failed);
        return;
      }
      const length = Math.min(greeting.length, bank.get('LENGTH'));
      try {
        host.dma.write(bank.get('ADDRESS'), greeting.subarray(0, length));
        bank.set('STATUS', status.done);
      } catch (error) {
        host.log.warn({ err: error }, 'the guest gave an address that it may not');
        bank.set('STATUS', status.failed);
      }
      host.interrupts.trigger(0);
    }

    return {
      bars: { 0: bank },
      reset: () => bank.reset(),
      // Deferred, for a client that had it run can't be asked for its memory before it has its answer.
      resume: () =>
        host.defer(() => {
          if (bank.get('STATUS') === status.rung) greet();
        }),
      migration: {
        p2p: true,
        geometry: {},
        estimate: () => 128,
        save: (): StateRecord[] => [{ section: 'registers', value: bank.save() }],
        beginLoad: () => bank.reset(),
        load: (record) => bank.load('value' in record ? record.value : undefined),
        endLoad: () => {},
      },
    };
  },
});
