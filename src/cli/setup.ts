import type { Command } from 'commander';
import { CompanionError } from '../errors.ts';
import { bringAll } from '../setup/bring.ts';
import { cacheRoot, chooseKernel } from '../setup/index.ts';
import { Store } from '../setup/store.ts';

interface CliOptions {
  readonly kernel?: readonly string[];
  readonly verify?: boolean;
  readonly update?: boolean;
}

/** "NAME,NAME"; "" is the default kernel. */
function parseNames(text: string): readonly string[] {
  return text.split(',').map((name) => name.trim());
}

export function registerSetup(program: Command): void {
  program
    .command('setup')
    .description(
      'bring a QEMU, guest kernels and guest images from Debian; quick, and silent, when nothing is missing',
    )
    .option('--kernel <names>', 'guest kernels, with commas between them (default: $KERNEL)', parseNames)
    .option('--verify', 'check the content of every file that is there')
    .option('--update', 'look for newer packages')
    .action(async ({ kernel, verify = false, update = false }: CliOptions) => {
      const kernels = (kernel ?? parseNames(process.env.KERNEL ?? '')).map((name) => chooseKernel(name));
      const store = new Store(cacheRoot(), {
        deep: verify,
        update,
        say: (line) => process.stdout.write(`setup: ${line}\n`),
      });
      const missing = await bringAll(store, kernels);
      for (const { reason } of missing) complain(reason);
      if (missing.length === 0) return;
      process.stderr.write(`setup: missing: ${missing.map(({ what }) => what).join('; ')}\n`);
      process.exitCode = 1;
    });
}

/** Tells what the machine is to blame for; anything else is a mistake of ours, and shows its stack. */
function complain(error: unknown): void {
  const hint =
    error instanceof CompanionError ? error.hint : 'check the disk and the folder, and run it again';
  if (!(error instanceof CompanionError) && !(error instanceof Error && 'syscall' in error)) throw error;
  process.stderr.write(`setup: ${error.message}\n`);
  if (hint !== undefined) process.stderr.write(`setup: what to do: ${hint}\n`);
}
