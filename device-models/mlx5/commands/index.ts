import type { Command } from './command.ts';
import { flowCommands } from './flow.ts';
import { functionCommands } from './function.ts';
import { queueCommands } from './queues.ts';
import { registerCommands } from './registers.ts';
import { resourceCommands } from './resources.ts';
import { transportCommands } from './transport.ts';
import { vportCommands } from './vport.ts';
import { workQueueCommands } from './work-queues.ts';

/** Every command of the device. */
export const commands: readonly Command[] = [
  ...functionCommands,
  ...resourceCommands,
  ...queueCommands,
  ...workQueueCommands,
  ...transportCommands,
  ...flowCommands,
  ...vportCommands,
  ...registerCommands,
];
