import { Argument, type Command, InvalidArgumentError } from 'commander';
import { CompanionError, errno } from '../errors.ts';
import { reached, socketHint } from '../qemu/reached.ts';
import { AsyncVfioUserClient } from '../vfio-user/client/async-client.ts';
import { parseValue } from './value.ts';

type Arguments = Readonly<Record<string, unknown>>;

function collect(text: string, all: Arguments): Arguments {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('write KEY=VALUE');
  return { ...all, [text.slice(0, equals)]: parseValue(text.slice(equals + 1)) };
}

/** Binary data as hexadecimal text; integers that JSON readers would round as text, too. */
export function printable(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  const { type, data } = (value ?? {}) as { type?: unknown; data?: unknown };
  return type === 'Buffer' && Array.isArray(data) ? Buffer.from(data as number[]).toString('hex') : value;
}

/** Adds `ask`: one companion operation of a device server, for an operator. */
export function registerAsk(program: Command): void {
  program
    .command('ask')
    .description(
      'ask a device server for one operation over its migration socket, as setLink up=false; prints JSON',
    )
    .argument('<socket>', "the server's --migration-socket")
    .argument('<operation>', 'info lists what the model adds')
    .addArgument(
      new Argument('[key=value...]', 'arguments of the operation').argParser(collect).default({}, 'none'),
    )
    .action(ask);
}

async function ask(path: string, operation: string, given: Arguments): Promise<void> {
  const client = await reached(path, AsyncVfioUserClient.connect(path, { timeoutMs: 10_000 }), socketHint);
  try {
    if (!client.server.companion) {
      throw new CompanionError(
        'VC_NO_COMPANION',
        `${path} is no migration socket of a vfio-companion server`,
        {
          errno: errno.EOPNOTSUPP,
          hint: 'give the path of --migration-socket, not of --socket',
        },
      );
    }
    const answer = await client.companion(operation, given);
    process.stdout.write(`${JSON.stringify(answer, printable, 2)}\n`);
  } finally {
    client.close();
  }
}
