import { type Command, InvalidArgumentError, Option } from 'commander';
import { CompanionError } from '../errors.ts';
import { createLogger, type LogLevel, logLevels } from '../log.ts';
import {
  type MigratedDevice,
  type MigrateOptions,
  MigrationFailed,
  migrate,
  type QmpAddress,
} from '../qemu/index.ts';
import { htmlReport } from '../report/html.ts';
import { junitReport } from '../report/junit.ts';
import { createProgressView } from '../report/progress.ts';
import { summary } from '../report/summary.ts';
import type { MigrationReport } from '../report/types.ts';
import { checkPlace, writeWhole } from '../report/write.ts';
import { cancellable } from './cancelling.ts';
import { defaultDowntimeLimitMs, parseValue, positive } from './value.ts';

interface CliOptions {
  readonly from: QmpAddress;
  readonly to: QmpAddress;
  readonly uri: string;
  readonly listen?: string;
  readonly device: readonly MigratedDevice[];
  readonly downtimeLimit: number;
  readonly maxSeconds: number;
  readonly maxRounds: number;
  readonly capability: Readonly<Record<string, boolean>>;
  readonly parameter: Readonly<Record<string, unknown>>;
  readonly maxBandwidth?: number;
  readonly carry: boolean;
  readonly verifyRam?: boolean;
  readonly verifyState?: boolean;
  readonly verifyConfig?: boolean;
  readonly report?: string;
  readonly junit?: string;
  readonly json?: boolean;
  readonly progress: boolean;
  readonly log: LogLevel;
}

/** "PATH", "unix:PATH" or "tcp:HOST:PORT", where an IPv6 address may stand in brackets. */
export function parseQmpAddress(text: string): QmpAddress {
  if (text.startsWith('unix:')) return text.slice('unix:'.length);
  if (!text.startsWith('tcp:')) return text;
  const parts = /^tcp:(?:\[([^[\]]+)\]|([^[\]]*)):(\d{1,5})$/.exec(text);
  const [, bracketed, plain] = parts ?? [];
  const port = Number(parts?.[3]);
  if (parts === null || port < 1 || port > 65_535) throw new InvalidArgumentError('write tcp:HOST:PORT');
  return { host: bracketed || plain || '127.0.0.1', port };
}

/** "ID=SOURCE,DESTINATION" */
export function parseDevice(text: string, list: readonly MigratedDevice[] = []): MigratedDevice[] {
  const parts = /^([^=]+)=([^,]+),([^,]+)$/.exec(text);
  const [, id, source, destination] = parts ?? [];
  if (id === undefined || source === undefined || destination === undefined)
    throw new InvalidArgumentError('write ID=SOURCE_SOCKET,DESTINATION_SOCKET');
  return [...list, { id, source, destination }];
}

export function parseCapability(text: string, all: Record<string, boolean>): Record<string, boolean> {
  const parts = /^([a-z0-9-]+)(?:=(on|off))?$/.exec(text);
  if (parts?.[1] === undefined) throw new InvalidArgumentError('write NAME, NAME=on or NAME=off');
  return { ...all, [parts[1]]: parts[2] !== 'off' };
}

/**
 * As QEMU's own monitor and `--capability` write a boolean. None of the values that a parameter has names for is called
 * so (QEMU 11.1.3, `query-qmp-schema`); an id that is gets quotes.
 */
const onOrOff: ReadonlyMap<string, boolean> = new Map([
  ['on', true],
  ['off', false],
]);

export function parseParameter(text: string, all: Record<string, unknown>): Record<string, unknown> {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('write NAME=VALUE');
  const value = text.slice(equals + 1);
  return { ...all, [text.slice(0, equals)]: onOrOff.get(value) ?? parseValue(value) };
}

export function registerMigrate(program: Command): void {
  program
    .command('migrate')
    .description(
      'migrate a running VM with its vfio-user devices to a QEMU that waits with -incoming defer -S',
    )
    .requiredOption('--from <qmp>', 'QMP of the source: a path or tcp:HOST:PORT', parseQmpAddress)
    .requiredOption('--to <qmp>', 'QMP of the destination', parseQmpAddress)
    .requiredOption('--uri <uri>', 'where RAM travels: unix:PATH (as both QEMUs see it) or tcp:HOST:PORT')
    .option('--listen <uri>', 'where the destination listens, if not the same, such as tcp:0.0.0.0:4444')
    .requiredOption(
      '--device <id=source,destination>',
      'a vfio-user device and the migration sockets of its two servers; may be repeated',
      parseDevice,
    )
    .option('--downtime-limit <ms>', 'longest blackout to aim at', positive, defaultDowntimeLimitMs)
    .option('--max-seconds <s>', 'give up converging after', positive, 300)
    .option('--max-rounds <n>', 'give up converging after so many RAM rounds', positive, 60)
    .option('--max-bandwidth <bytes/s>', 'for RAM; default: as QEMU is set', positive)
    .addOption(
      new Option('--capability <name[=on|off]>', 'migration capability of both QEMUs; may be repeated')
        .argParser(parseCapability)
        .default({}, 'none'),
    )
    .addOption(
      new Option(
        '--parameter <name=value>',
        'migration parameter of both QEMUs: on, off, or what JSON says it is, else text; may be repeated',
      )
        .argParser(parseParameter)
        .default({}, 'none'),
    )
    .option('--no-carry', 'mark every page that a device wrote, also where its servers could carry them')
    .option('--verify-ram', 'compare every page of RAM before the guest resumes (both QEMUs on this machine)')
    .option('--verify-state', 'save the devices again on both sides and compare')
    .option('--verify-config', 'read PCI configuration and MSI-X tables back and compare')
    .option('--report <file>', 'write a self-contained HTML page')
    .option('--junit <file>', 'write a JUnit XML file')
    .option('--json', 'print the report as JSON on standard output')
    .option('--no-progress', 'no live progress')
    .addOption(new Option('--log-level, --log <level>', 'how much to log').choices(logLevels).default('warn'))
    .action(run);
}

async function run(options: CliOptions): Promise<void> {
  for (const path of [options.report, options.junit]) if (path !== undefined) await checkPlace(path);
  const view = options.progress ? createProgressView(process.stderr) : undefined;
  await cancellable(async (signal) => {
    try {
      const report = await migrate(toMigrateOptions(options, signal, view?.update));
      view?.end();
      const written = await writeReports(options, report);
      print(options, report);
      if (written !== undefined) throw written;
    } catch (error) {
      view?.end();
      if (error instanceof MigrationFailed) {
        const written = await writeReports(options, error.report);
        if (options.json === true) print(options, error.report);
        if (written !== undefined) process.stderr.write(`error: ${written.message} [${written.code}]\n`);
      }
      throw error;
    }
  });
}

function toMigrateOptions(
  options: CliOptions,
  signal: AbortSignal,
  onProgress: MigrateOptions['onProgress'] | undefined,
): MigrateOptions {
  return {
    source: { qmp: options.from },
    destination: { qmp: options.to },
    uri: options.uri,
    listenUri: options.listen,
    devices: options.device,
    downtimeLimitMs: options.downtimeLimit,
    maxSeconds: options.maxSeconds,
    maxRounds: options.maxRounds,
    capabilities: options.capability,
    parameters: options.parameter,
    maxBandwidth: options.maxBandwidth,
    carryPages: options.carry,
    verify: {
      ram: options.verifyRam === true,
      state: options.verifyState === true,
      config: options.verifyConfig === true,
    },
    signal,
    log: createLogger({ name: 'migrate', level: options.log }),
    onProgress,
  };
}

function print(options: CliOptions, report: MigrationReport): void {
  process.stdout.write(options.json === true ? `${JSON.stringify(report)}\n` : `${summary(report)}\n`);
}

/** Returns the error when a report can't be written: the migration has happened, and another report is written all the same. */
export async function writeReports(
  { report: page, junit }: Pick<CliOptions, 'report' | 'junit'>,
  report: MigrationReport,
): Promise<CompanionError | undefined> {
  const failed: CompanionError[] = [];
  const write = async (path: string, make: () => string | Promise<string>): Promise<void> => {
    try {
      await writeWhole(path, await make());
    } catch (error) {
      failed.push(
        error instanceof CompanionError
          ? error
          : new CompanionError('VC_REPORT', `no report is written to ${path}: ${String(error)}`, {
              cause: error,
            }),
      );
    }
  };
  if (page !== undefined) await write(page, () => htmlReport(report));
  if (junit !== undefined) await write(junit, () => junitReport(report));
  const [first] = failed;
  if (first === undefined || failed.length === 1) return first;
  return new CompanionError('VC_REPORT', failed.map(({ message }) => message).join('; '), {
    hint: first.hint,
    cause: first,
  });
}
