/** What is said where this user may not go: sockets, namespaces and folders of somebody else. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { closeFd, listenUnix } from '../../src/posix/index.ts';
import { type CommandEnd, endsOf } from './command-lines.ts';

/** Root may do anything as long as it has its capabilities. */
const unprivileged = process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-all', '--inh-caps=-all'] : [];

let folder: string;
const inFolder = (name: string): string => join(folder, name);
const open: number[] = [];
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-permissions-'));
  for (const [name, type] of [
    ['stream', 'stream'],
    ['switch', 'seqpacket'],
  ] as const) {
    open.push(listenUnix(inFolder(name), { type }));
    chmodSync(inFolder(name), 0);
  }
  writeFileSync(inFolder('namespace'), '', { mode: 0 });
  mkdirSync(inFolder('closed'), { mode: 0 });
  mkdirSync(inFolder('read-only'), { mode: 0o500 });
});
afterAll(() => {
  for (const fd of open) closeFd(fd);
  rmSync(folder, { recursive: true, force: true });
});

const serving = (...more: string[]): string[] => ['serve', 'mlx5', '--socket', inFolder('device'), ...more];
const migrating = (qmp: string, ...more: string[]): string[] => [
  ...['migrate', '--from', inFolder(qmp), '--to', inFolder(qmp), '--uri', `unix:${inFolder('ram')}`],
  ...['--device', `dev0=${inFolder('stream')},${inFolder('stream')}`, ...more],
];

const notOurs = /^hint: it is not for this user: run this as the one whose it is, or as root$/m;
const refusals: readonly { what: string; args: () => string[]; says: RegExp; hint?: RegExp }[] = [
  {
    what: 'a migration socket',
    args: () => ['ask', inFolder('stream'), 'info'],
    says: /^error: \S+stream: vfio-user: the connection failed: connect EACCES/,
  },
  {
    what: 'a monitor',
    args: () => migrating('stream'),
    says: /^error: source QEMU: can't connect to QMP at \S+stream: connect EACCES/,
  },
  {
    what: 'a switch of which one is to be a port',
    args: () => serving('--net', `switch:${inFolder('switch')}`),
    says: /^error: can't reach a switch: connect \S+switch: EACCES \[VC_NET\]$/m,
  },
  {
    what: 'a switch that is asked',
    args: () => ['switch', '--socket', inFolder('switch'), '--stats'],
    says: /^error: can't reach a switch: connect \S+switch: EACCES \[VC_NET\]$/m,
  },
  {
    what: 'a stream',
    args: () => serving('--net', `stream:unix:${inFolder('stream')},reconnect=0`),
    says: /^error: no stream at \S+stream: connect \S+stream: EACCES/,
  },
  {
    what: 'a network namespace',
    args: () => serving('--net', `tap:tap0@${inFolder('namespace')}`),
    says: /^error: no tap tap0 in \S+namespace: open network namespace \S+namespace: EACCES/,
  },
  {
    what: 'a folder to listen in for a stream',
    args: () => serving('--net', `stream:unix:${inFolder('closed/stream')},server`),
    says: /^error: no stream at \S+: listen on \S+closed\/stream: EACCES/,
    hint: /^hint: you may not make files in \S+closed: choose another directory/m,
  },
  {
    what: 'the socket that lies where one is to be made',
    args: () => ['serve', 'hello', '--socket', inFolder('stream')],
    says: /^error: listen on \S+stream: EADDRINUSE/,
    hint: /^hint: a socket of another user's is there: choose another path/m,
  },
  {
    what: 'a saved VM',
    args: () => [
      'restore',
      '--qmp',
      inFolder('stream'),
      '--device',
      'dev0=none',
      '--from',
      inFolder('closed'),
    ],
    says: /^error: \S+closed\/vm\.json can't be read: EACCES \[VC_SAVED_VM\]$/m,
  },
  {
    what: 'the folder of a report',
    args: () => migrating('stream', '--report', inFolder('closed/report.html')),
    says: /^error: no report can be written to \S+report\.html: EACCES \[VC_REPORT\]/,
    hint: /^hint: name a file in a folder that is there and that you may write to/m,
  },
  {
    what: 'a folder that can only be read, for the report of a demonstration',
    args: () => ['demo', '--report', inFolder('read-only/report.html')],
    says: /^error: no report can be written to \S+report\.html: EACCES \[VC_REPORT\]/,
    hint: /^hint: name a file in a folder that is there and that you may write to/m,
  },
];

describe('a user who may not have', () => {
  let ends: CommandEnd[];
  beforeAll(async () => {
    ends = await endsOf(
      refusals.map(({ args }) => args()),
      unprivileged,
    );
  });

  it.each(refusals.map((refusal, index) => ({ ...refusal, index })))(
    '$what is told so, and what to do',
    ({ index, says, hint = notOurs }) => {
      const { stderr, ...end } = ends[index] ?? expect.fail('not run');
      expect(stderr).toMatch(says);
      expect(stderr).toMatch(hint);
      expect(stderr).not.toMatch(/^\s+at /m);
      expect(end).toEqual({ exitCode: 1, stdout: '' });
    },
  );
});
