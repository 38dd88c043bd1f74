import { type Command, InvalidArgumentError } from 'commander';
import { type QmpAddress, type Recovery, recover } from '../qemu/index.ts';
import { parseQmpAddress } from './migrate.ts';

interface CliOptions {
  readonly qmp: QmpAddress;
  readonly device: readonly { readonly id: string; readonly socket: string }[];
  readonly force?: boolean;
  readonly json?: boolean;
}

/** "ID=SOCKET" */
function parseDevice(text: string, list: CliOptions['device'] = []): CliOptions['device'] {
  const [, id, socket] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (id === undefined || socket === undefined) throw new InvalidArgumentError('write ID=MIGRATION_SOCKET');
  return [...list, { id, socket }];
}

export function registerRecover(program: Command): void {
  program
    .command('recover')
    .description('have a VM go on whose migration was left in the middle, as when "migrate" was killed')
    .requiredOption('--qmp <qmp>', 'QMP of the VM: a path or tcp:HOST:PORT', parseQmpAddress)
    .requiredOption(
      '--device <id=socket>',
      'a vfio-user device and the migration socket of its server; may be repeated',
      parseDevice,
    )
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
