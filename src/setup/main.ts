import { parseArgs } from 'node:util';
import { CompanionError } from '../errors.ts';
import { ensureImage } from './image.ts';
import { chooseKernel } from './index.ts';
import { cacheRoot } from './paths.ts';
import { ensureQemu } from './qemu.ts';
import { Store } from './store.ts';

/**
 * `node dist/src/setup/main.js [--kernel NAME[,NAME…]] [--verify] [--update]`: brings QEMU, guest kernels and
 * guest images. Says nothing and changes nothing when all of it is there and whole. `--verify` compares the
 * content of every file, `--update` looks for newer packages. Exit status 1 if anything is still missing.
 */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      kernel: { type: 'string', default: process.env.KERNEL ?? '' },
      verify: { type: 'boolean', default: false },
      update: { type: 'boolean', default: false },
    },
  });
  const store = new Store(cacheRoot(), {
    deep: values.verify,
    update: values.update,
    say: (line) => process.stdout.write(`setup: ${line}\n`),
  });
  const names = new Set(values.kernel.split(',').map((name) => chooseKernel(name.trim())));
  const steps: [what: string, bring: () => Promise<unknown>][] = [
    ['QEMU >= 10.1 with vfio-user-pci', async () => await ensureQemu(store)],
  ];
  for (const name of names) {
    steps.push([`guest kernel ${name} and its image`, async () => await ensureImage(store, name)]);
  }
  // One that cannot be had does not keep the others away, and all that is missing is named.
  const missing: string[] = [];
  for (const [what, bring] of steps) {
    try {
      await bring();
    } catch (error) {
      missing.push(what);
      complain(error);
    }
  }
  if (missing.length > 0) {
    process.stderr.write(`setup: missing: ${missing.join('; ')}\n`);
    process.exitCode = 1;
  }
}

/** Prints what the machine is to blame for; anything else is a mistake of ours, and shows its stack. */
function complain(error: unknown): void {
  const hint =
    error instanceof CompanionError ? error.hint : 'check the disk and the folder, and run it again';
  if (!(error instanceof CompanionError) && !(error instanceof Error && 'syscall' in error)) throw error;
  process.stderr.write(`setup: ${error.message}\n`);
  if (hint !== undefined) process.stderr.write(`setup: what to do: ${hint}\n`);
  process.exitCode = 1;
}

try {
  await main();
} catch (error) {
  complain(error);
}
