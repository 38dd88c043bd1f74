import { defineModel, RegisterBlock, type StateRecord } from '../../src/device/index.ts';

/** BAR 0. The device counts by itself and writes each count into the next page of a ring in guest memory. */
const registers = {
  ID: { offset: 0x00, width: 4, access: 'ro', reset: 0x52544e43, about: '"CNTR"' },
  COUNT: { offset: 0x04, width: 4, access: 'ro', about: 'counts since reset' },
  ADDRESS: { offset: 0x08, width: 8, access: 'rw', about: 'start of the ring in guest memory' },
  PAGES: { offset: 0x10, width: 4, access: 'rw', about: 'pages of 4 KiB in the ring' },
  INTERVAL: { offset: 0x14, width: 4, access: 'rw', about: 'microseconds between counts; 0: off' },
} as const;
const pageSize = 4096;

/**
 * The older version of a device that is upgraded in use: `v2.ts` is what became of it, and `diff v1.ts v2.ts` is
 * what a new version takes. Vector 0 says that the ring has been gone round.
 */
export default defineModel({
  name: 'counter',
  description: 'counts into guest memory, first version; for upgrades in use',
  stateVersion: 1,
  options: {},

  pci: () => ({
    vendorId: 0x1b36, // Red Hat's id for QEMU's own example devices
    deviceId: 0x11e3,
    classCode: 0xff0000,
    bars: { 0: { size: 0x2000, kind: 'memory32' } },
    capabilities: {
      msix: { vectors: 1, table: { bar: 0, offset: 0x1000 }, pba: { bar: 0, offset: 0x1800 } },
    },
  }),

  create(host) {
    const bank = new RegisterBlock(registers, { INTERVAL: { write: () => arm() } });
    const timer = host.timer(() => tick());

    function arm(): void {
      const interval = bank.get('INTERVAL');
      if (interval === 0) timer.cancel();
      else timer.arm(interval * 1000);
    }

    function tick(): void {
      const pages = bank.get('PAGES');
      if (!host.mayInitiate || !host.pci.busMaster || pages === 0) return;
      const count = (bank.get('COUNT') + 1) >>> 0;
      try {
        host.dma.writeUint32LE(bank.get('ADDRESS') + (count % pages) * pageSize, count);
      } catch (error) {
        host.log.warn({ err: error }, 'the ring is not guest memory; the counter is off');
        bank.set('INTERVAL', 0);
        return;
      }
      bank.set('COUNT', count);
      if (count % pages === 0) host.interrupts.trigger(0);
      arm();
    }

    return {
      bars: { 0: bank },
      reset() {
        bank.reset();
        timer.cancel();
      },
      quiesce: () => timer.cancel(),
      resume: () => arm(),
      commandChanged: () => arm(),
      close: () => timer.close(),
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
