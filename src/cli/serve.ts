import { parse, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type DirtyScopeName, dirtyScopes } from '../dma/dirty-tracker.ts';
import { keepCompiledCode } from '../engine.ts';
import { CompanionError } from '../errors.ts';
import { createLogger, type LogLevel, logLevels } from '../log.ts';
import { createReactor } from '../loop/index.ts';
import { rehearseMigration } from '../rehearsal/rehearse-migration.ts';
import { DeviceRuntime } from '../runtime/device-runtime.ts';
import { isModelPath } from '../runtime/model-module.ts';
import { orchestratorPort } from '../runtime/orchestrator-port.ts';
import { NativeServer, type NativeServerOptions } from '../transport/native/index.ts';
import { findModel } from './models.ts';
import { ServedNetwork } from './network.ts';

const transports = ['native', 'libvfio-user'] as const;
type Transport = (typeof transports)[number];

interface ServeOptions {
  readonly socket: string;
  readonly migrationSocket?: string;
  readonly transport: Transport;
  readonly set: Record<string, string>;
  readonly net?: string;
  readonly pcap?: string;
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
    .argument(
      '<model>',
      'which device (see "vfio-companion models"), or the path of a module that exports one',
    )
    .requiredOption('--socket <path>', 'where the client connects')
    .option('--migration-socket <path>', 'where an orchestrator connects')
    .addOption(
      new Option('--transport <kind>', 'what serves the client: our own server, or the C library')
        .choices(transports)
        .default('native'),
    )
    .addOption(
      new Option('--set <key=value>', 'an option of the model; may be repeated')
        .argParser(collectSetting)
        .default({}, 'none'),
    )
    .option(
      '--net <spec>',
      'where frames go: switch:PATH,id=NIC, stream:…, tap:NAME or none (same as --set net=SPEC)',
    )
    .option('--pcap <file>', 'capture the frames of the network port')
    .addOption(
      new Option('--dirty <scope>', 'how much a dirty log takes for dirty')
        .choices(dirtyScopes)
        .default('precise'),
    )
    .option('--held', 'start nothing until told: for the destination of a migration')
    .option('--no-p2p', 'do not offer the P2P states')
    .option('--no-precopy', 'do not offer PRE_COPY')
    .option(
      '--busy-wait <us>',
      'look for more for so many microseconds after the last work before sleeping, on a processor that is left to it (0: never; default: 50, where that pays)',
      microseconds,
    )
    .addOption(new Option('--log-level, --log <level>', 'how much to log').choices(logLevels).default('info'))
    .option('--log-json', 'log one JSON object a line')
    .action(serve);
}

/** Serves until SIGTERM, SIGINT or SIGHUP; both socket files are gone afterwards. */
async function serve(modelName: string, options: ServeOptions): Promise<void> {
  keepCompiledCode();
  if (options.migrationSocket !== undefined && resolve(options.migrationSocket) === resolve(options.socket)) {
    throw new CompanionError('VC_USAGE', `--socket and --migration-socket are both ${options.socket}`, {
      hint: 'give each a path of its own',
    });
  }
  const log = createLogger({
    name: parse(modelName).name,
    level: options.log,
    json: options.logJson ?? false,
  });
  const reactor = createReactor({
    ...(options.busyWait !== undefined && { busyWaitNs: options.busyWait * 1000, busyWaitAlways: true }),
    onError: (error) => log.error({ err: error }, 'a callback of the device loop failed'),
  });
  const held = options.held ?? false;
  // A source finds out by itself what it needs: its device runs, and is asked for state, long before the guest stops. A
  // model of the user's own may do more when it is created than be a device.
  if (held && !isModelPath(modelName)) rehearseMigration(await findModel(modelName), log);
  const network = new ServedNetwork({ reactor, log, held, pcap: options.pcap });
  const runtime = new DeviceRuntime(await findModel(modelName, network.open), {
    reactor,
    log,
    options: options.net === undefined ? options.set : { ...options.set, net: options.net },
    dirtyScope: options.dirty,
    held,
    migration: { p2p: options.p2p, preCopy: options.precopy },
    extension: network,
  });
  const servers: { close(): void }[] = [];
  try {
    if (options.pcap !== undefined && network.empty) {
      throw new CompanionError('VC_USAGE', `--pcap: model ${runtime.name} has no network port`, {
        hint: 'leave it out',
      });
    }
    const common = { reactor, device: runtime, path: options.socket, log };
    servers.push(await deviceServer(options.transport, common));
    if (options.migrationSocket !== undefined) {
      servers.push(
        new NativeServer({
          reactor,
          device: orchestratorPort(runtime as unknown as DeviceRuntime),
          path: options.migrationSocket,
          role: 'migration',
          log,
          companion: (request, sendReplies) => runtime.companion.handle(request, sendReplies),
          onClientGone: () => runtime.companion.release(),
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

type DeviceServerOptions = Required<Pick<NativeServerOptions, 'reactor' | 'device' | 'path' | 'log'>>;

/** The library's binding is loaded only when it is asked for. */
async function deviceServer(transport: Transport, options: DeviceServerOptions): Promise<{ close(): void }> {
  if (transport === 'native') return new NativeServer({ ...options, role: 'device' });
  const { armLastWords, LibvfioUserServer } = await import('../transport/libvfio-user/index.ts');
  const server = new LibvfioUserServer(options);
  const { path, generation } = server.library;
  options.log.info(`serving through ${path} (generation ${generation})`);
  const disarm = armLastWords(
    `vfio-companion: the process that served ${options.device.name} on ${options.path} has died without closing: ` +
      `killed, or ${path} aborted or crashed (its assertion is in the line above then). Only this device is gone.`,
  );
  return {
    close() {
      server.close();
      disarm();
    },
  };
}
