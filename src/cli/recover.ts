import type { Command } from 'commander';
import { type QmpAddress, type Recovery, recover, type SideDevice } from '../qemu/index.ts';
import { parseQmpAddress } from './migrate.ts';
import { parseSideDevice, sideDevice } from './side-options.ts';

interface CliOptions {
  readonly qmp: QmpAddress;
  readonly device: readonly SideDevice[];
  readonly force?: boolean;
  readonly json?: boolean;
}

export function registerRecover(program: Command): void {
  program
    .command('recover')
    .description('have a VM go on whose migration was left in the middle, as when "migrate" was killed')
    .requiredOption('--qmp <qmp>', 'QMP of the VM: a path or tcp:HOST:PORT', parseQmpAddress)
    .requiredOption(sideDevice.flags, sideDevice.description, parseSideDevice)
    .option('--force', 'also when the VM has sent its guest away; only if no destination has it')
    .option('--json', 'print what was found as JSON on standard output')
    .action(async ({ json, device, ...options }: CliOptions) => {
      const recovery = await recover({ ...options, devices: device });
      process.stdout.write(json === true ? `${JSON.stringify(recovery)}\n` : describeRecovery(recovery));
    });
}

export function describeRecovery({ before, migration, after, devices, restored }: Recovery): string {
  const now = after === 'running' ? 'goes on' : `stays ${after}`;
  const lines = [`the VM was ${before}, its migration ${migration}; it ${now}`];
  for (const { id, state, held } of devices)
    lines.push(`device ${id} was ${state}${held ? ', held' : ''}; it works`);
  for (const [name, value] of Object.entries(restored))
    lines.push(`QEMU's ${name} is ${String(value)} again (its default; what it was before is not known)`);
  return `${lines.join('\n')}\n`;
}
