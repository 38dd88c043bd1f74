import type { RegisterTable } from '../../src/device/index.ts';

/** BAR 0 of the `ram` device, little-endian. `images/guest` holds the same offsets for the guest's programs. */
export const registers = {
  ID: { offset: 0x00, width: 4, access: 'ro', reset: 0x4d415256, about: '"VRAM"' },
  MEMORY_SIZE: { offset: 0x08, width: 8, access: 'ro', about: 'bytes of on-board memory behind BAR 2' },
  SCRATCH: { offset: 0x10, width: 4, access: 'rw' },
  GUEST_ADDRESS: { offset: 0x20, width: 8, access: 'rw', about: 'DMA: where in guest memory' },
  DEVICE_ADDRESS: { offset: 0x28, width: 8, access: 'rw', about: 'DMA: where in on-board memory' },
  LENGTH: { offset: 0x30, width: 8, access: 'rw', about: 'DMA: bytes' },
  COMMAND: { offset: 0x38, width: 4, access: 'trigger', about: 'see `command`' },
  STATUS: { offset: 0x3c, width: 4, access: 'ro', about: 'see `status`' },
  VECTOR: { offset: 0x40, width: 4, access: 'rw', about: 'MSI or MSI-X vector of completions' },
  INTERRUPT: { offset: 0x44, width: 4, access: 'w1c', about: 'bit 0: completed; holds INTx up while set' },
  COMPLETED: { offset: 0x48, width: 4, access: 'ro', about: 'transfers completed since reset' },
  /** The churn engine writes guest memory by itself, round and round, as a NIC's receive ring does. */
  CHURN_ADDRESS: { offset: 0x60, width: 8, access: 'rw', about: 'start of the ring in guest memory' },
  CHURN_PAGES: { offset: 0x68, width: 4, access: 'rw', about: 'pages of 4 KiB in the ring' },
  CHURN_INTERVAL: { offset: 0x6c, width: 4, access: 'rw', about: 'microseconds between writes; 0: off' },
  CHURN_COUNT: {
    offset: 0x70,
    width: 4,
    access: 'ro',
    about: 'writes done; each stores its number in its page',
  },
} as const satisfies RegisterTable;

export const command = {
  /** Guest memory to on-board memory. */
  fromGuest: 1,
  /** On-board memory to guest memory. */
  toGuest: 2,
} as const;

export const status = { idle: 0, busy: 1, done: 2, badRange: 3, dmaFault: 4, badCommand: 5 } as const;

/** `INTERRUPT` bit 0. */
export const interruptCompleted = 1;
