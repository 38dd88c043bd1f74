import { parseArgs } from 'node:util';
import { CompanionError } from '../errors.ts';
import { ensureImage } from './image.ts';
import { chooseKernel } from './index.ts';
import { cacheRoot } from './paths.ts';
import { ensureQemu } from './qemu.ts';
import { Store } from './store.ts';

/**
 * `node dist/src/setup/main.js [--kernel NAME[,NAME…]] [--verify] [--update]`: brings QEMU, guest kernels and
 * guest images. Says nothing and changes nothing when all of it is there and whole.
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
  const names = new Set(values.kernel.split(',').map((name) => chooseKernel(name)));
  await ensureQemu(store);
  for (const name of names) await ensureImage(store, name);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof CompanionError)) throw error;
  process.stderr.write(`setup: ${error.message}\n`);
  if (error.hint !== undefined) process.stderr.write(`setup: what to do: ${error.hint}\n`);
  process.exitCode = 1;
}
