import { CompanionError } from '../errors.ts';
import { ensureLibvfioUser, libraryVariable } from './libvfio-user.ts';
import { cacheRoot } from './paths.ts';
import { Store } from './store.ts';

/**
 * `node dist/src/setup/libvfio-user-main.js`: builds the libvfio-user that Debian's QEMU source carries, and
 * says where it is. Builds nothing when it is there and whole.
 */
async function main(): Promise<void> {
  const store = new Store(cacheRoot(), {
    say: (line) => process.stdout.write(`setup: ${line}\n`),
  });
  const { path, generation, origin } = await ensureLibvfioUser(store);
  process.stdout.write(`${path} (generation ${generation}, from ${origin ?? 'an unknown source'})\n`);
  const selected = process.env[libraryVariable];
  if (selected !== undefined && selected !== '') {
    process.stdout.write(`but ${libraryVariable}=${selected} is what will be used\n`);
  }
}

try {
  await main();
} catch (error) {
  if (!(error instanceof CompanionError)) throw error;
  process.stderr.write(`setup: ${error.message}\n`);
  if (error.hint !== undefined) process.stderr.write(`setup: what to do: ${error.hint}\n`);
  process.exitCode = 1;
}
