import { type Command, Option } from 'commander';
import { createLogger, type LogLevel, logLevels } from '../log.ts';
import {
  type QmpAddress,
  type RestoreReport,
  restoreVm,
  type SaveReport,
  type SideDevice,
  saveVm,
} from '../qemu/index.ts';
import { bytes } from '../report/format.ts';
import { cancellable } from './cancelling.ts';
import { parseQmpAddress } from './migrate.ts';
import { parseSideDevice, sideDevice } from './side-options.ts';

interface CliOptions {
  readonly qmp: QmpAddress;
  readonly device: readonly SideDevice[];
  readonly json?: boolean;
  readonly log: LogLevel;
}

interface RestoreCliOptions {
  readonly from: string;
  readonly paused?: boolean;
  readonly verify?: boolean;
}

function logOption(): Option {
  return new Option('--log-level, --log <level>', 'how much to log').choices(logLevels).default('warn');
}

export function registerSave(program: Command): void {
  program
    .command('save')
    .description('save a VM with its vfio-user devices to a folder, for "restore"')
    .requiredOption('--qmp <qmp>', 'QMP of the VM: a path or tcp:HOST:PORT', parseQmpAddress)
    .requiredOption(sideDevice.flags, sideDevice.description, parseSideDevice)
    .requiredOption('--to <folder>', 'where; it must not be there yet')
    .option('--resume', 'have the guest go on here when it is saved; without, it stands still')
    .option('--json', 'print the report as JSON on standard output')
    .addOption(logOption())
    .action(async (options: CliOptions & { readonly to: string; readonly resume?: boolean }) => {
      const { qmp, device: devices, to: folder, resume = false } = options;
      const log = createLogger({ name: 'save', level: options.log });
      const report = await cancellable((signal) => saveVm({ qmp, devices, folder, resume, signal, log }));
      print(options, report, describeSave);
    });
}

export function registerRestore(program: Command): void {
  program
    .command('restore')
    .description('start a saved VM in a QEMU that waits with -incoming defer -S')
    .requiredOption('--qmp <qmp>', 'QMP of that QEMU: a path or tcp:HOST:PORT', parseQmpAddress)
    .requiredOption(
      sideDevice.flags,
      `${sideDevice.description}; the server is started with --held`,
      parseSideDevice,
    )
    .requiredOption('--from <folder>', 'what "save" has written')
    .option('--paused', 'have the guest stay paused')
    .option(
      '--verify',
      'read registers back and save the devices again, and compare both with what was saved',
    )
    .option('--json', 'print the report as JSON on standard output')
    .addOption(logOption())
    .action(async (options: CliOptions & RestoreCliOptions) => {
      const { qmp, device: devices, from: folder, paused = false, verify = false } = options;
      const log = createLogger({ name: 'restore', level: options.log });
      const report = await cancellable((signal) =>
        restoreVm({ qmp, devices, folder, paused, verify, signal, log }),
      );
      print(options, report, describeRestore);
    });
}

function print<T>({ json }: CliOptions, report: T, describe: (report: T) => string): void {
  process.stdout.write(json === true ? `${JSON.stringify(report)}\n` : describe(report));
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

export function describeSave(report: SaveReport): string {
  const { folder, totalMs, ramBytes, devices, wasRunning, resumed } = report;
  const parts = devices.map(({ id, model, stateBytes }) => `${id} (${model}) ${bytes(stateBytes)}`);
  const now = resumed
    ? 'the guest goes on'
    : `the guest ${wasRunning ? 'stands still' : 'is paused, as it was'}: end its QEMU and its device servers`;
  const lines = [
    `saved to ${folder} in ${seconds(totalMs)}: ${[`RAM ${bytes(ramBytes)}`, ...parts].join(', ')}`,
    now,
  ];
  return `${lines.join('\n')}\n`;
}

export function describeRestore(report: RestoreReport): string {
  const { folder, savedAt, totalMs, running, devices, warnings } = report;
  const state = running ? 'runs' : 'is paused';
  const lines = [`restored from ${folder} (saved ${savedAt}) in ${seconds(totalMs)}; the guest ${state}`];
  for (const { id, configEqual, msixTableEqual, stateEqual } of devices) {
    const equal = Object.entries({
      configuration: configEqual,
      'MSI-X table': msixTableEqual,
      state: stateEqual,
    }).filter(([, same]) => same === true);
    if (equal.length > 0)
      lines.push(`${id}: ${equal.map(([what]) => what).join(', ')} equal to what was saved`);
  }
  return `${[...lines, ...warnings.map((warning) => `warning: ${warning}`)].join('\n')}\n`;
}
