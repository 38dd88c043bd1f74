/**
 * Runs the benchmarks one after the other, each in a process of its own, and passes arguments on. Slow ones that
 * boot guests run only when named.
 *
 *   node dist/bench/main.js [NAME …] [-- ARGUMENTS of each]
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Without a guest: what `make bench` runs. */
const quick = [
  'round-trip',
  'transports',
  'dma',
  'footprint',
  'dirty-log',
  'state-stream',
  'state-stream-sockets',
];

const split = process.argv.indexOf('--');
const named = process.argv.slice(2, split < 0 ? undefined : split);
const passed = split < 0 ? [] : process.argv.slice(split + 1);
let failed = 0;
for (const name of named.length > 0 ? named : quick) {
  const script = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  if (!existsSync(script)) {
    console.error(`there is no benchmark "${name}"; see bench/README.md`);
    failed++;
    continue;
  }
  console.log(`\n## ${name}`);
  const { status } = spawnSync(process.execPath, [script, ...passed], { stdio: 'inherit' });
  if (status !== 0) failed++;
}
process.exitCode = failed === 0 ? 0 : 1;
