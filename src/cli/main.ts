#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { exitStatus, failureStatus, failureText } from './failure.ts';

/** How writing fails when the reader has gone: `| head`, a terminal that was closed. */
const readerGone: readonly (string | undefined)[] = ['EPIPE', 'EIO'];

// A reader that has gone (`| head`, a log collector that ended) must not take a device or a migration with it.
process.stderr.on('error', () => undefined);
let lost = false;
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (readerGone.includes(error.code) || lost) return;
  lost = true;
  // One that is there misses what it was to get, as with a full disk.
  process.exitCode = exitStatus.failed;
  process.stderr.write(`error: the output is lost: ${error.message}\n`);
});

type Register = (program: Command) => void;

/** Loaded one at a time: a server that starts does not wait for what the others need, which took half of its time. */
const commands: Readonly<Record<string, () => Promise<Register>>> = {
  serve: async () => (await import('./serve.ts')).registerServe,
  migrate: async () => (await import('./migrate.ts')).registerMigrate,
  save: async () => (await import('./saved.ts')).registerSave,
  restore: async () => (await import('./saved.ts')).registerRestore,
  recover: async () => (await import('./recover.ts')).registerRecover,
  models: async () => (await import('./models.ts')).registerModels,
  switch: async () => (await import('./switch.ts')).registerSwitch,
  ask: async () => (await import('./ask.ts')).registerAsk,
  doctor: async () => (await import('./doctor.ts')).registerDoctor,
  setup: async () => (await import('./setup.ts')).registerSetup,
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

try {
  for (const load of wanted()) (await load())(program);
  await program.parseAsync();
} catch (error) {
  process.exitCode = failureStatus(error);
  // Commander has said by itself what it could not read.
  if (!(error instanceof CommanderError)) process.stderr.write(failureText(error));
}
