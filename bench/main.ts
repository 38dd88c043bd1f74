/**
 * Runs the benchmarks one after the other, each in a process of its own. Those that boot guests or need taps run only when named.
 *
 *   node dist/bench/main.js [--reference PATH] [NAME …] [-- ARGUMENTS of the one that is named]
 *
 * PATH is a build of libvfio-user's samples/server.c; without it, the one that `make libvfio-user` built.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { locateLibvfioUser } from '../src/setup/libvfio-user.ts';

/** With neither a guest nor taps: what `make bench` runs. */
const quick = [
  'round-trip',
  'transports',
  'dma',
  'footprint',
  'dirty-log',
  'dirty-log-peers',
  'state-stream',
  'state-stream-sockets',
];
/** Those that measure against the C sample server. */
const refer = new Set(['round-trip', 'footprint']);

const split = process.argv.indexOf('--');
const { values, positionals } = parseArgs({
  args: process.argv.slice(2, split < 0 ? undefined : split),
  options: { reference: { type: 'string' } },
  allowPositionals: true,
});
const passed = split < 0 ? [] : process.argv.slice(split + 1);
const reference =
  values.reference ?? locateLibvfioUser({ ...process.env, LIBVFIO_USER: '' })?.samples?.server;

let failed = 0;
for (const name of positionals.length > 0 ? positionals : quick) {
  const script = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  if (!existsSync(script)) {
    console.error(`there is no benchmark "${name}"; see bench/README.md`);
    failed++;
    continue;
  }
  console.log(`\n## ${name}`);
  const against = reference !== undefined && refer.has(name) ? ['--reference', reference] : [];
  const { status } = spawnSync(process.execPath, [script, ...against, ...passed], { stdio: 'inherit' });
  if (status !== 0) failed++;
}
process.exitCode = failed === 0 ? 0 : 1;
