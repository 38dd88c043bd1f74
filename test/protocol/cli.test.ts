import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askSwitch } from '../../src/net/index.ts';
import { closeFd, connectUnix } from '../../src/posix/index.ts';
import { VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { type CommandEnd, endsOf, program } from './command-lines.ts';

let folder: string;
const inFolder = (name: string): string => join(folder, name);
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-cli-'));
  writeFileSync(inFolder('file'), 'precious');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Mistake {
  readonly what: string;
  readonly args: () => string[];
  readonly says: RegExp;
  readonly hint?: RegExp;
  /** 2: the command line makes no sense; 1: this machine, or what is served, does not allow it. */
  readonly status: 1 | 2;
}

const serve = (model: string, ...more: string[]): string[] => [
  ...['serve', model, '--socket', inFolder('dev.sock')],
  ...more,
];
const mistakes: readonly Mistake[] = [
  {
    what: 'serve: a model that is not there',
    args: () => serve('nosuch'),
    says: /^error: there is no model "nosuch" \[VC_NO_MODEL\]/,
    hint: /^hint: the models are hello, ram, timer/m,
    status: 2,
  },
  {
    what: 'serve: an option that the model lacks',
    args: () => serve('ram', '--set', 'megabyte=16'),
    says: /^error: model ram has no option "megabyte" \[VC_MODEL_OPTION\]/,
    hint: /megabytes \(number, 16\.\.1024, default 16\)/,
    status: 2,
  },
  {
    what: 'serve: a value that the option can not take',
    args: () => serve('ram', '--set', 'megabytes=lots'),
    says: /^error: megabytes=lots is not a number from 16 to 1024/,
    hint: /^hint: the default is 16/m,
    status: 2,
  },
  {
    what: 'serve: a directory that is not there',
    args: () => ['serve', 'ram', '--socket', inFolder('none/dev.sock')],
    says: /^error: listen on \S+dev\.sock: ENOENT/,
    hint: /^hint: there is no directory \S+none: make it/m,
    status: 1,
  },
  {
    what: 'serve: a file in place of a directory',
    args: () => ['serve', 'ram', '--socket', inFolder('file/dev.sock')],
    says: /^error: listen on \S+dev\.sock: ENOTDIR/,
    hint: /^hint: \S+file is no directory/m,
    status: 1,
  },
  {
    what: 'serve: one path for both sockets',
    args: () => serve('ram', '--migration-socket', inFolder('dev.sock')),
    says: /^error: --socket and --migration-socket are both/,
    hint: /^hint: give each a path of its own/m,
    status: 2,
  },
  {
    what: 'serve: a dirty log that the model can not keep',
    args: () => serve('ram', '--dirty', 'pinned'),
    says: /^error: this model does not tell what the guest has registered \[VC_DIRTY_SCOPE\]/,
    hint: /^hint: Use --dirty precise, or --dirty all/m,
    status: 1,
  },
  {
    what: 'serve: a capture of a model without a network',
    args: () => serve('ram', '--pcap', inFolder('capture')),
    says: /^error: --pcap: model ram has no network port \[VC_USAGE\]/,
    hint: /^hint: leave it out/m,
    status: 2,
  },
  {
    what: 'serve: a network port that is none',
    args: () => serve('mlx5', '--net', 'nowhere'),
    says: /^error: "nowhere" is no network port: "nowhere" is unknown \[VC_NET_SPEC\]/,
    hint: /^hint: it is one of/m,
    status: 2,
  },
  ...[
    ['demo', '--downtime-limit', '2000'],
    ['migrate', '--from', 'a', '--to', 'b', '--uri', 'unix:x', '--device', 'dev0=a,b'],
  ].map((line) => ({
    what: `${line[0]}: a place where no report can be written`,
    args: () => [...line, '--report', inFolder('none/report.html')],
    says: /^error: no report can be written to \S+: there is no folder \S+none \[VC_REPORT\]/,
    status: 1 as const,
  })),
  {
    what: 'setup: a kernel that it does not know',
    args: () => ['setup', '--kernel', 'bookworm,nosuch'],
    says: /^error: no guest kernel is called nosuch .*\nhint: use one of bookworm, /,
    status: 1,
  },
  {
    what: 'switch: nothing to capture without an uplink',
    args: () => ['switch', '--socket', inFolder('switch'), '--pcap', inFolder('capture')],
    says: /^error: --pcap captures what passes the first uplink, and there is none/,
    status: 2,
  },
  ...['nic0', 'nic0=', 'nic0=maybe', '=up'].map((cable) => ({
    what: `switch: "${cable}", which is no cable`,
    args: () => ['switch', '--socket', inFolder('switch'), '--set-link', cable],
    says: /^error: .*--set-link.* PORT=up or PORT=down is wanted/,
    status: 2 as const,
  })),
];

it('a switch that has as many ports as it takes still answers who asks, and says so of the next port', async () => {
  const path = inFolder('taken');
  const child = execa(process.execPath, [program, 'switch', '--socket', path, '--max-ports', '1']);
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const serve = (name: string): string[] => [
    ...[program, 'serve', 'mlx5', '--socket', inFolder(name), '--net', `switch:${path},name=${name}`],
  ];
  const first = execa(process.execPath, serve('first'));
  await new Promise((resolve) => first.stdout.once('data', resolve));
  const second = execa(process.execPath, serve('second'));
  await new Promise((resolve) => second.stderr.once('data', resolve));
  const notice = askSwitch(path, { op: 'stats' });
  expect(notice).toMatchObject({ op: 'stats', stats: { ports: [{ name: 'first' }] } });
  for (const each of [first, second, child]) each.kill('SIGTERM');
  const [, refused, network] = await Promise.all([first, second, child]);
  expect(refused.stderr).toMatch(/WARN.*the switch refuses this port: .*\(switch --max-ports\)/);
  expect(network.stderr).toMatch(/WARN.*too many ports: one is refused \(--max-ports\)/);
});

it('whoever asks a switch that has as many connections as it may have is told that it is refused', async () => {
  const path = inFolder('full');
  const child = execa(process.execPath, [
    ...[program, 'switch', '--socket', path, '--log-level', 'error', '--max-ports', '4'],
  ]);
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const connections = Array.from({ length: 4 + 16 }, () => connectUnix(path, 'seqpacket'));
  for (let times = 0; times < 5; times += 1)
    expect(() => askSwitch(path, { op: 'stats' })).toThrow(/^the switch at \S+full refuses to talk$/);
  for (const fd of connections) closeFd(fd);
  child.kill('SIGTERM');
  await child;
});

it.runIf(existsSync('/dev/full'))('output that is lost on a full disk is no success', () => {
  const full = openSync('/dev/full', 'w');
  const result = spawnSync(process.execPath, [program, 'models', '--json'], {
    stdio: ['ignore', full, 'pipe'],
    encoding: 'utf8',
  });
  closeSync(full);
  expect(result.stderr).toMatch(/^error: the output is lost: .*ENOSPC/);
  expect(result.status).toBe(1);
});

it('a working directory that is gone is told of in one sentence', async () => {
  const script = 'mkdir "$1" && cd "$1" && rmdir "$1" && shift && exec "$@"';
  const command = [program, 'serve', 'ram', '--socket', 'a', '--migration-socket', 'b'];
  const args = ['-c', script, 'sh', inFolder('gone'), process.execPath, ...command];
  const result = await execa('sh', args, { reject: false });
  expect(result.stderr).toBe('error: the working directory is gone\nhint: go to another one');
  expect(result).toMatchObject({ exitCode: 1, stdout: '' });
});

it('set-up names all that it could not bring', async () => {
  const env = { VFIO_COMPANION_CACHE: inFolder('cache'), PATH: inFolder('nothing'), KERNEL: 'trixie' };
  const result = await execa(process.execPath, [program, 'setup'], { env, reject: false });
  expect(result.stderr).toMatch(/^setup: what to do: \S/m);
  expect(result.stderr).toMatch(
    /^setup: missing: QEMU >= 10\.1 with vfio-user-pci; guest kernel trixie and its image$/m,
  );
  expect(result).toMatchObject({ exitCode: 1, stdout: '' });
});

it.runIf(existsSync('/proc/self'))('set-up refuses a cache folder where no folder can be made', async () => {
  const env = { VFIO_COMPANION_CACHE: '/proc/vfio-companion/cache' };
  const result = await execa(process.execPath, [program, 'setup'], { env, reject: false, timeout: 20_000 });
  expect(result.stderr).toMatch(
    /^setup: the cache folder \/proc\/vfio-companion\/cache cannot be written to$/m,
  );
  expect(result).toMatchObject({ exitCode: 1, stdout: '' });
});

describe('a command line that can not be carried out', () => {
  let ends: CommandEnd[];
  beforeAll(async () => {
    ends = await endsOf(mistakes.map(({ args }) => args()));
  });

  it.each(mistakes.map((mistake, index) => ({ ...mistake, index })))(
    'is told so, and what to do: $what',
    ({ index, says, hint = says, status }) => {
      const { stderr, ...end } = ends[index] ?? expect.fail('not run');
      expect(stderr).toMatch(says);
      expect(stderr).toMatch(hint);
      expect(stderr).not.toMatch(/^\s+at /m);
      expect(end).toEqual({ exitCode: status, stdout: '' });
    },
  );
});

describe('vfio-companion serve', () => {
  it('negative control: says that it is ready when nothing is wrong, and leaves no socket behind', async () => {
    const [path, migrationSocket] = [inFolder('good.sock'), inFolder('good.migration')];
    const child = execa(process.execPath, [
      ...[program, 'serve', 'ram', '--socket', path, '--migration-socket', migrationSocket],
      ...['--log', 'warn'],
    ]);
    const [line] = await new Promise<string[]>((resolve) =>
      child.stdout.once('data', (bytes: Buffer) => resolve(bytes.toString().split('\n'))),
    );
    expect(JSON.parse(line ?? '')).toEqual({ event: 'ready', socket: path, migrationSocket });
    for (const each of [path, migrationSocket]) expect(statSync(each).mode & 0o777).toBe(0o600);
    const client = VfioUserClient.connect(path);
    expect(client.getInfo().regions).toBe(9);
    client.close();
    const second = await execa(process.execPath, [program, 'serve', 'ram', '--socket', path], {
      reject: false,
    });
    expect(second.stderr).toMatch(/^error: listen on \S+good\.sock: EADDRINUSE/);
    expect(second.stderr).toMatch(/^hint: another process listens there/m);
    child.kill('SIGTERM');
    expect(await child).toMatchObject({ exitCode: 0 });
    for (const each of [path, migrationSocket]) expect(existsSync(each)).toBe(false);
  });

  it('goes on when whoever reads its log has gone', async () => {
    const path = inFolder('unread.sock');
    const child = execa(process.execPath, [program, 'serve', 'ram', '--socket', path, '--log', 'trace']);
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.stderr.destroy();
    child.stdout.destroy();
    for (let times = 0; times < 3; times += 1) {
      const client = VfioUserClient.connect(path);
      expect(client.getInfo().regions).toBe(9);
      client.close();
    }
    child.kill('SIGTERM');
    expect(await child).toMatchObject({ exitCode: 0 });
  });
});

it('a report is made with few open files, as when all else has been done and only that is left', async () => {
  const [html, sample] = ['src/report/html.js', 'test/unit/report/a-report.js'].map(
    (built) => new URL(`../../dist/${built}`, import.meta.url).href,
  );
  const code = `
    const { htmlReport } = await import('${html}');
    const { aReport } = await import('${sample}');
    console.log(await htmlReport(aReport));`;
  const { stdout } = await execa('sh', [
    ...['-c', 'ulimit -n 64; exec "$@"', 'sh'],
    ...[process.execPath, '--input-type=module', '-e', code],
  ]);
  expect(stdout).toContain('</svg>');
});
