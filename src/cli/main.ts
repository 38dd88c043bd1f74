#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { CompanionError } from '../errors.ts';
import { registerAsk } from './ask.ts';
import { registerDemo } from './demo.ts';
import { registerDoctor } from './doctor.ts';
import { registerMigrate } from './migrate.ts';
import { registerModels } from './models.ts';
import { registerServe } from './serve.ts';
import { registerSwitch } from './switch.ts';

/** Exit statuses, beside 0 for "all that was claimed has been checked". */
const exitStatus = { failed: 1, usage: 2 } as const;

const program = new Command('vfio-companion')
  .description('Serve PCI devices over vfio-user to a stock QEMU, and migrate them live')
  .version('0.1.0')
  .showHelpAfterError('(see vfio-companion help)')
  .exitOverride();

for (const register of [
  registerServe,
  registerMigrate,
  registerModels,
  registerSwitch,
  registerAsk,
  registerDoctor,
  registerDemo,
])
  register(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : exitStatus.usage;
  else {
    process.exitCode = exitStatus.failed;
    if (error instanceof CompanionError) {
      process.stderr.write(`error: ${error.message} [${error.code}]\n`);
      if (error.hint) process.stderr.write(`hint: ${error.hint}\n`);
    } else process.stderr.write(`error: ${error instanceof Error ? error.stack : String(error)}\n`);
  }
}
