import { type Command, InvalidArgumentError, Option } from 'commander';
import { CompanionError } from '../errors.ts';
import { createLogger, type LogLevel, logLevels } from '../log.ts';
import { createReactor } from '../loop/index.ts';
import { MAX_FRAME } from '../net/ethernet.ts';
import { type QueueLimits, RECORD_HEADER } from '../net/frame-queue.ts';
import { askSwitch, defaultMaxPorts, openPort, Switch } from '../net/index.ts';

/** A frame of an interface with MTU 9000, with some room. */
const JUMBO_BYTES = 9216;

interface SetLink {
  readonly port: string;
  readonly up: boolean;
}

interface SwitchCommandOptions {
  readonly socket: string;
  readonly parkLimit: number;
  readonly queueLimit: number;
  readonly maxPorts: number;
  readonly uplink: readonly string[];
  readonly pcap?: string;
  readonly age: number;
  readonly setLink?: SetLink;
  readonly stats?: boolean;
  readonly logLevel: LogLevel;
}

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value <= 0)
    throw new InvalidArgumentError('a positive whole number is wanted.');
  return value;
}

function linkState(text: string): SetLink {
  const equals = text.lastIndexOf('=');
  const state = text.slice(equals + 1);
  if (equals <= 0 || (state !== 'up' && state !== 'down'))
    throw new InvalidArgumentError('PORT=up or PORT=down is wanted.');
  return { port: text.slice(0, equals), up: state === 'up' };
}

/** Room for so many jumbo frames, and in any case for the longest one. */
export function limitsOf(frames: number): QueueLimits {
  return { frames, bytes: Math.max(frames * JUMBO_BYTES, RECORD_HEADER + MAX_FRAME) };
}

/** Asks a running switch instead of being one; whether that was wanted. */
function asked(options: SwitchCommandOptions): boolean {
  if (options.setLink !== undefined) {
    askSwitch(options.socket, { op: 'setLink', ...options.setLink });
    return true;
  }
  if (options.stats !== true) return false;
  const notice = askSwitch(options.socket, { op: 'stats' });
  if (notice.op === 'stats') process.stdout.write(`${JSON.stringify(notice.stats, undefined, 2)}\n`);
  return true;
}

async function runSwitch(options: SwitchCommandOptions): Promise<void> {
  if (asked(options)) return;
  if (options.pcap !== undefined && options.uplink.length === 0) {
    throw new CompanionError('VC_USAGE', '--pcap captures what passes the first uplink, and there is none', {
      hint: 'add --uplink, or give --pcap to "serve"',
    });
  }
  const log = createLogger({ name: 'switch', level: options.logLevel });
  const reactor = createReactor({ onError: (error) => log.error({ err: error }, 'unexpected') });
  const network = new Switch({
    reactor,
    log,
    path: options.socket,
    ageSeconds: options.age,
    maxPorts: options.maxPorts,
    parkLimits: limitsOf(options.parkLimit),
    queueLimits: limitsOf(options.queueLimit),
  });
  const stop = () => reactor.stop();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.once(signal, stop);
  try {
    for (const [index, spec] of options.uplink.entries()) {
      const pcap = index === 0 && options.pcap !== undefined ? { pcap: options.pcap } : {};
      network.addUplink(openPort(spec, { reactor, log, ...pcap }), spec);
    }
    process.stdout.write(`${JSON.stringify({ event: 'ready', socket: options.socket })}\n`);
    await reactor.run();
  } finally {
    network.close();
    reactor.close();
  }
}

/** Adds `switch`: a learning switch that devices and peers join by `--net switch:PATH`. */
export function registerSwitch(program: Command): void {
  program
    .command('switch')
    .description('run a network switch that devices join with --net switch:PATH')
    .requiredOption('--socket <path>', 'where ports connect')
    .option('--park-limit <frames>', 'frames kept for a device while it migrates', positive, 1024)
    .option('--queue-limit <frames>', 'frames that wait for a port that is slow', positive, 1024)
    .option('--max-ports <n>', 'ports at the same time, uplinks among them', positive, defaultMaxPorts)
    .option('--age <seconds>', 'forget an address after so long a silence', positive, 300)
    .addOption(
      new Option('--uplink <spec>', 'join a tap:… or stream:… as a port, too; may be repeated')
        .argParser((spec: string, all: readonly string[]) => [...all, spec])
        .default([], 'none'),
    )
    .option('--pcap <file>', 'capture what passes the first uplink')
    .option(
      '--set-link <port=up|down>',
      'pull or plug the cable of a port of a running switch, then exit',
      linkState,
    )
    .option('--stats', 'print the ports and counters of a running switch as JSON, then exit')
    .addOption(new Option('--log, --log-level <level>', 'how much to log').choices(logLevels).default('info'))
    .action(runSwitch);
}
