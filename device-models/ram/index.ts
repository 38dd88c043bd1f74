import {
  defineModel,
  errno,
  type MsixDescription,
  RegisterBlock,
  RequestError,
} from '../../src/device/index.ts';
import { ChurnEngine } from './churn.ts';
import { DmaEngine } from './dma-engine.ts';
import { BoardMemory } from './memory.ts';
import { RamMigration } from './migration.ts';
import { interruptCompleted, registers, status } from './registers.ts';

const mebibyte = 1 << 20;
const interruptKinds = ['msix', 'msi', 'intx'];
const msix: MsixDescription = {
  vectors: 4,
  table: { bar: 0, offset: 0x1000 },
  pba: { bar: 0, offset: 0x1800 },
};

/** On-board memory, a DMA engine, interrupts: the work horse for DMA, dirty-log and precopy tests. */
export const ram = defineModel({
  name: 'ram',
  description: '16 MiB to 1 GiB of on-board memory, a DMA engine to and from guest memory, a ring writer',
  stateVersion: 1,
  options: {
    megabytes: {
      type: 'number',
      default: 16,
      min: 16,
      max: 1024,
      description: 'on-board memory, a power of two',
    },
    populate: {
      type: 'boolean',
      default: false,
      description: 'take all on-board memory from the system at the start, not page by page when it is used',
    },
    interrupt: { type: 'string', default: 'msix', description: 'msix, msi or intx' },
  },

  pci(options) {
    const { megabytes, interrupt } = options;
    if ((megabytes & (megabytes - 1)) !== 0)
      throw new RequestError(errno.EINVAL, `megabytes=${megabytes} is not a power of two`);
    if (!interruptKinds.includes(interrupt))
      throw new RequestError(errno.EINVAL, `interrupt=${interrupt}: not msix, msi or intx`);
    return {
      vendorId: 0x1b36,
      deviceId: 0x11e1,
      classCode: 0x058000, // memory controller, other
      interruptPin: 1,
      bars: {
        0: { size: 0x2000, kind: 'memory32' },
        2: { size: megabytes * mebibyte, kind: 'memory64', prefetchable: true },
      },
      capabilities: {
        pcie: { functionLevelReset: true },
        ...(interrupt === 'msix' && { msix }),
        ...(interrupt === 'msi' && { msi: { vectors: 4, address64: true, perVectorMasking: true } }),
      },
    };
  },

  create(host, options) {
    const size = options.megabytes * mebibyte;
    const memory = new BoardMemory(size, options.populate);
    const bank = new RegisterBlock(registers, {
      COMMAND: { write: (direction) => engine.start(direction) },
      INTERRUPT: { write: () => showInterrupt() },
      CHURN_INTERVAL: { write: () => churn.arm() },
    });
    const engine = new DmaEngine(host, bank, memory, () => {
      bank.set('INTERRUPT', bank.get('INTERRUPT') | interruptCompleted);
      // A guest driver that has INTx disabled for the moment gets it when it enables it again.
      if (options.interrupt === 'intx' || host.interrupts.mode === 'intx') showInterrupt();
      else if (host.pci.busMaster) host.interrupts.trigger(bank.get('VECTOR') % msix.vectors);
    });
    const churn = new ChurnEngine(host, bank);

    function showInterrupt(): void {
      host.interrupts.setIntx(bank.get('INTERRUPT') !== 0);
    }

    function reset(): void {
      bank.reset();
      bank.set('MEMORY_SIZE', size);
      bank.set('STATUS', status.idle);
      engine.transfer = undefined;
      churn.stop();
      showInterrupt();
    }

    reset();
    return {
      bars: { 0: bank, 2: memory },
      reset(kind) {
        reset();
        if (kind !== 'flr') memory.clear();
      },
      quiesce: () => churn.stop(),
      resume() {
        engine.advance();
        churn.arm();
      },
      commandChanged() {
        engine.advance();
        churn.arm();
      },
      migration: new RamMigration(bank, memory, engine, reset),
      close: () => churn.close(),
    };
  },
});
