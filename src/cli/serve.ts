import { type Command, InvalidArgumentError, Option } from 'commander';
import { type DirtyScopeName, dirtyScopes } from '../dma/dirty-tracker.ts';
import { createLogger, type LogLevel, logLevels } from '../log.ts';
import { createReactor } from '../loop/index.ts';
import { DeviceRuntime } from '../runtime/device-runtime.ts';
import { orchestratorPort } from '../runtime/orchestrator-port.ts';
import { NativeServer } from '../transport/native/index.ts';
import { findModel } from './models.ts';

interface ServeOptions {
  readonly socket: string;
  readonly migrationSocket?: string;
  readonly set: Record<string, string>;
  readonly dirty: DirtyScopeName;
  readonly held?: boolean;
  readonly p2p: boolean;
  readonly precopy: boolean;
  readonly busyWait?: number;
  readonly log: LogLevel;
  readonly logJson?: boolean;
}

function collectSetting(text: string, settings: Record<string, string>): Record<string, string> {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('write KEY=VALUE');
  return { ...settings, [text.slice(0, equals)]: text.slice(equals + 1) };
}

function microseconds(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0 || value > 1e6) throw new InvalidArgumentError('0 to 1000000');
  return value;
}

export function registerServe(program: Command): void {
  program
    .command('serve')
    .description('serve one device to a vfio-user client (QEMU) until a signal ends it')
    .argument('<model>', 'which device; see "vfio-companion models"')
    .requiredOption('--socket <path>', 'where the client connects')
    .option('--migration-socket <path>', 'where an orchestrator connects')
    .option('--set <key=value>', 'an option of the model; may be repeated', collectSetting, {})
    .addOption(
      new Option('--dirty <scope>', 'how much a dirty log takes for dirty')
        .choices(dirtyScopes)
        .default('precise'),
    )
    .option('--held', 'start nothing until told: for the destination of a migration')
    .option('--no-p2p', 'do not offer the P2P states')
    .option('--no-precopy', 'do not offer PRE_COPY')
    .option('--busy-wait <us>', 'most microseconds of busy-waiting before a sleep', microseconds)
    .addOption(new Option('--log <level>', 'how much to log').choices(logLevels).default('info'))
    .option('--log-json', 'log one JSON object a line')
    .action(serve);
}

/** Serves until SIGTERM, SIGINT or SIGHUP; both socket files are gone afterwards. */
async function serve(modelName: string, options: ServeOptions): Promise<void> {
  const model = findModel(modelName);
  const log = createLogger({ name: modelName, level: options.log, json: options.logJson ?? false });
  const reactor = createReactor({
    ...(options.busyWait !== undefined && { busyWaitNs: options.busyWait * 1000 }),
    onError: (error) => log.error({ err: error }, 'a callback of the device loop failed'),
  });
  const runtime = new DeviceRuntime(model, {
    reactor,
    log,
    options: options.set,
    dirtyScope: options.dirty,
    held: options.held ?? false,
    migration: { p2p: options.p2p, preCopy: options.precopy },
  });
  const servers: NativeServer[] = [];
  try {
    servers.push(new NativeServer({ reactor, device: runtime, path: options.socket, role: 'device', log }));
    if (options.migrationSocket !== undefined) {
      servers.push(
        new NativeServer({
          reactor,
          device: orchestratorPort(runtime as unknown as DeviceRuntime),
          path: options.migrationSocket,
          role: 'migration',
          log,
          companion: (request) => runtime.companion.handle(request),
        }),
      );
    }
    const ready = {
      event: 'ready',
      socket: options.socket,
      migrationSocket: options.migrationSocket ?? null,
    };
    process.stdout.write(`${JSON.stringify(ready)}\n`);
    const stop = (signal: NodeJS.Signals): void => {
      log.info(`${signal}: closing`);
      reactor.stop();
    };
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.once(signal, stop);
    await reactor.run();
  } finally {
    for (const server of servers) server.close();
    runtime.close();
    reactor.close();
  }
}
