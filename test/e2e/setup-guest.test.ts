import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GuestAgent } from '../../src/qemu/guest-agent.ts';
import { tryAccelerator } from '../../src/setup/accel.ts';
import { checkoutRoot, locateKernel, locateQemu, probeAccelerator } from '../../src/setup/index.ts';

let folder: string;
let children: ChildProcess[];
let agents: GuestAgent[];

/** A VM as these tests need it: our guest, the agent's port, a monitor. */
async function boot(name: string, options: { machine?: string; extra?: string[] } = {}): Promise<void> {
  const qemu = await locateQemu();
  const kernel = await locateKernel();
  const path = (suffix: string): string => join(folder, `${name}.${suffix}`);
  const args = [
    ...['-M', options.machine ?? 'q35', '-accel', await probeAccelerator(), '-cpu', 'max', '-m', '256'],
    ...['-nodefaults', '-display', 'none', '-no-reboot', '-kernel', kernel.boot, '-initrd', kernel.initrd],
    ...['-append', 'console=ttyS0 quiet panic=-1', '-device', 'e1000e', '-serial', `file:${path('console')}`],
    ...['-chardev', `socket,id=agent,path=${path('agent')},server=on,wait=off`, '-serial', 'chardev:agent'],
    ...['-qmp', `unix:${path('qmp')},server=on,wait=off`, ...(options.extra ?? [])],
  ];
  const child = spawn(qemu.command, [...qemu.args, ...args], { stdio: 'ignore' });
  children.push(child);
}

function agentOf(name: string): GuestAgent {
  const agent = new GuestAgent(join(folder, `${name}.agent`));
  agents.push(agent);
  return agent;
}

/** One QMP conversation: every command waits for its return; the last return is the result. */
async function qmp(name: string, commands: readonly object[]): Promise<unknown> {
  const socket = connect(join(folder, `${name}.qmp`));
  let text = '';
  const replies: unknown[] = [];
  let wake: (() => void) | undefined;
  socket.on('data', (chunk) => {
    text += chunk.toString();
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) {
      const message = JSON.parse(line) as Record<string, unknown>;
      if ('return' in message || 'error' in message) replies.push(message.return ?? message);
    }
    wake?.();
  });
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  const all = [{ execute: 'qmp_capabilities' }, ...commands];
  for (const [index, command] of all.entries()) {
    socket.write(JSON.stringify(command));
    while (replies.length <= index) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }
  socket.destroy();
  return replies.at(-1);
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-companion-guest-'));
  children = [];
  agents = [];
});

afterEach(async () => {
  for (const agent of agents) agent.close();
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }
  rmSync(folder, { recursive: true, force: true });
});

it('set-up has nothing to say when all is there', async () => {
  const result = await execa(process.execPath, [join(checkoutRoot(), 'dist/src/cli/main.js'), 'setup'], {
    reject: false,
  });
  expect(result).toMatchObject({ exitCode: 0, stdout: '', stderr: '' });
});

describe('the guest that set-up makes', () => {
  it.each(['q35', 'pc'])(
    'boots on %s, loads drivers, has its programs and runs commands',
    async (machine) => {
      await boot('one', { machine });
      const agent = agentOf('one');
      await agent.waitReady();
      const kernel = await locateKernel();
      expect(await agent.check('uname -r')).toBe(kernel.release);
      expect(await agent.run('echo out; echo err >&2; exit 7')).toMatchObject({
        status: 7,
        stdout: 'out\nerr\n',
      });
      expect((await agent.run('kill -9 $$')).status).toBe(137);
      // The real programs, not busybox's.
      expect(await agent.check('ip -V')).toContain('iproute2');
      expect(await agent.check('ethtool --version')).toContain('ethtool version');
      expect(await agent.check('iperf3 --version')).toContain('iperf');
      expect(await agent.check('basename $(readlink -f /sys/class/net/eth0/device/driver)')).toBe('e1000e');
      for (const module of ['mlx5_core', 'vfio-pci', 'uio_pci_generic', 'igb', 'nvme', '8021q']) {
        expect(await agent.run(`modprobe ${module}`)).toEqual({ status: 0, stdout: '', truncated: false });
      }
      const bytes = await agent.check(
        'head -c 200000 /dev/urandom >/tmp/x; md5sum </tmp/x; base64 -w0 /tmp/x',
      );
      expect(bytes.length).toBeGreaterThan(260_000);
      await expect(agent.run('sleep 1000', { timeoutMs: 500 })).rejects.toThrow('sleep 1000');
      // The loop's own `sleep` has ended when it looks.
      const looks = 'pidof sleep >/dev/null || { echo gone; exit; }; sleep 0.2';
      expect(await agent.check(`for i in $(seq 150); do ${looks}; done; echo left`)).toBe('gone');
    },
  );

  it('runs what the kernel command line asks for, and powers off', async () => {
    const hooks = 'console=ttyS0 quiet vc_noprobe=1 vc_run="echo hook ran; exit 3" vc_poweroff=1';
    await boot('hook', { extra: ['-append', hooks] });
    const [child] = children;
    const status = await new Promise((resolve) => child?.once('exit', resolve));
    expect(status).toBe(0);
    const log = readFileSync(join(folder, 'hook.console'), 'utf8');
    expect(log).toContain('hook ran');
    expect(log).toContain('vc_run ended with status 3');
  });

  it('keeps its agent and its memory through a migration, and sees memory that was spoiled', async () => {
    await boot('source');
    const agent = agentOf('source');
    await agent.waitReady();
    await agent.check('workload --mib 8 --rate 16 >/run/workload.log 2>&1 & echo $! >/run/workload.pid');
    const long = agent.run('sleep 4; echo $((6 * 7))');
    await boot('target', { extra: ['-incoming', 'defer', '-S'] });
    const uri = `unix:${join(folder, 'migration')}`;
    await until(async () => {
      const state = await qmp('target', [{ execute: 'query-status' }]);
      return (state as { status: string }).status === 'inmigrate';
    });
    await qmp('target', [{ execute: 'migrate-incoming', arguments: { uri } }]);
    await qmp('source', [{ execute: 'migrate', arguments: { uri } }]);
    await until(async () => {
      const { status } = (await qmp('source', [{ execute: 'query-migrate' }])) as { status?: string };
      expect(status).not.toBe('failed');
      return status === 'completed';
    });
    agent.attach(join(folder, 'target.agent'));
    await qmp('target', [{ execute: 'cont' }]);
    expect(await long).toEqual({ status: 0, stdout: '42\n', truncated: false });
    const before = await report(agent);
    await until(async () => (await report(agent)).passes > before.passes + 1);
    expect((await report(agent)).errors).toBe(0);
    // Negative control: the same check does see one wrong word.
    await agent.check('kill -USR1 $(cat /run/workload.pid)');
    await until(async () => (await report(agent)).errors > 0);
  });
});

describe('tryAccelerator', () => {
  it('says that TCG works, and that nothing works without enough time', async () => {
    const [qemu, kernel] = [await locateQemu(), await locateKernel()];
    expect(await tryAccelerator(qemu, kernel, 'tcg', 120_000)).toEqual({ works: true });
    const probe = await tryAccelerator(qemu, kernel, 'tcg', 100);
    expect(probe.works).toBe(false);
    expect(probe.reason).toContain('did not boot');
  });
});

async function report(agent: GuestAgent): Promise<{ passes: number; errors: number }> {
  const text = await agent.check('cat /run/workload');
  const [, passes, errors] = /passes (\d+) .* errors (\d+)/.exec(text) ?? [];
  return { passes: Number(passes), errors: Number(errors) };
}

/** Asks every 100 ms until the answer is yes; the test's own time-out ends it otherwise. */
async function until(question: () => Promise<boolean>): Promise<void> {
  for (;;) {
    try {
      if (await question()) return;
    } catch (error) {
      // QEMU has not made its socket yet.
      if (
        !(
          error instanceof Error &&
          'code' in error &&
          (error.code === 'ENOENT' || error.code === 'ECONNREFUSED')
        )
      )
        throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
