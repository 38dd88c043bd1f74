#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { CompanionError } from '../errors.ts';

/** Exit statuses, beside 0 for "all that was claimed has been checked". */
const exitStatus = { failed: 1, usage: 2 } as const;

// A reader that has gone (`| head`, a log collector that ended) must not take a device or a migration with it.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

type Register = (program: Command) => void;

/** Loaded one at a time: a server that starts does not wait for what the others need, which took half of its time. */
const commands: Readonly<Record<string, () => Promise<Register>>> = {
  serve: async () => (await import('./serve.ts')).registerServe,
  migrate: async () => (await import('./migrate.ts')).registerMigrate,
  recover: async () => (await import('./recover.ts')).registerRecover,
  models: async () => (await import('./models.ts')).registerModels,
  switch: async () => (await import('./switch.ts')).registerSwitch,
  ask: async () => (await import('./ask.ts')).registerAsk,
  doctor: async () => (await import('./doctor.ts')).registerDoctor,
  demo: async () => (await import('./demo.ts')).registerDemo,
};

const program = new Command('vfio-companion')
  .description('Serve PCI devices over vfio-user to a stock QEMU, and migrate them live')
  .version('0.1.0')
  .showHelpAfterError('(see vfio-companion help)')
  .exitOverride();

/** The command that was asked for, or all, where help or a hint has to name them. */
function wanted(): readonly (() => Promise<Register>)[] {
  const first = process.argv[2] ?? '';
  const asked = Object.hasOwn(commands, first) ? commands[first] : undefined;
  return asked === undefined ? Object.values(commands) : [asked];
}

for (const load of wanted()) (await load())(program);

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
