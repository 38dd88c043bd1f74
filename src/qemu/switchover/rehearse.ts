/**
 * This process's own part of a blackout, played through while the guest runs: what is run for the first time is compiled first, and
 * cold code was found to take some milliseconds that a guest stands still.
 */
import { setImmediate as immediate } from 'node:timers/promises';
import { migrationState } from '../../migration/state.ts';
import { command } from '../../pci/index.ts';
import type { DevicePeer, PeerInfo } from '../device-peer.ts';
import type { QmpSession } from '../qmp.ts';
import { commit } from './commit.ts';
import { fenced } from './fence.ts';
import { anticipate, finish } from './final.ts';
import { quiesce } from './quiesce.ts';
import { commandOf, commandOffset } from './registers.ts';
import { replay } from './replay.ts';
import { type DeviceRun, Run } from './run.ts';
import { verify } from './verify.ts';

/** So many that V8 compiles what runs in each of them. */
const rounds = 40;
const stateBytes = 1024;
/** An MSI-X table of which nothing has changed. */
const noTable = Buffer.alloc(0);
const aPage = { pages: 1, failed: 0, firstErrno: 0, microseconds: 1, deferred: false, kept: 0 };

/**
 * Plays the blackout of `run` with parties that agree to everything at once. Nobody else notices.
 * @returns how often it was played; it ends when the real one comes, or the migration is given up
 */
export async function rehearse(run: Run): Promise<number> {
  let round = 0;
  for (; round < rounds && !run.progressed.stopped && !run.signal.aborted; round++) {
    const played = playedRun(run);
    anticipate(played);
    await quiesce(played);
    await finish(played);
    await replay(played);
    await verify(played);
    await commit(played);
    // Whatever else this process has to do comes in between.
    await immediate();
  }
  return round;
}

function playedRun({ options, devices }: Run): Run {
  const { source, destination, uri } = options;
  const settings = { source, destination, uri, devices: [], downtimeLimitMs: Number.POSITIVE_INFINITY };
  const run = new Run(settings, playedMonitor(), playedMonitor(), devices.map(playedDevice));
  run.progressed.migrateSent = true;
  run.progressed.stopped = true;
  return run;
}

/** A device that its guest lets do DMA, and of which the destination has been told all. */
function playedDevice(device: DeviceRun): DeviceRun {
  const config = Buffer.from(device.sourceInfo.config);
  config.writeUInt16LE(commandOf(config) | command.master | command.memory, commandOffset);
  const info = { ...device.sourceInfo, config };
  const source = playedPeer(info);
  return {
    ...device,
    source: fenced(source, new AbortController().signal),
    unfenced: source,
    destination: playedPeer(info),
    told: { config, table: { address: 0, bytes: noTable } },
    channel: { chunkBytes: 2 * stateBytes, read: async () => stateBytes, write: async () => undefined },
    fed: Promise.resolve(),
    feeding: false,
    replayPath: 'none',
  };
}

function playedPeer(info: PeerInfo): DevicePeer {
  const nothing = async (): Promise<void> => undefined;
  const addresses: (number | null)[] = [];
  for (const { index, address } of info.bars) addresses[index] = address;
  return {
    name: 'rehearsal',
    maxTransfer: stateBytes,
    ended: new Promise(() => undefined),
    migrationFlags: async () => 0,
    state: async () => migrationState.RUNNING,
    setState: nothing,
    precopyInfo: async () => ({ initialBytes: 0, dirtyBytes: 0 }),
    dataSize: async () => stateBytes,
    read: async () => Buffer.alloc(0),
    write: nothing,
    startLogging: nothing,
    stopLogging: nothing,
    info: async () => info,
    barrier: async () => ({ errno: 0, msixTable: noTable }),
    rest: async () => ({ errno: 0, msixTable: noTable, microseconds: 1, config: info.config, addresses }),
    halt: async () => stateBytes,
    hold: nothing,
    dma: async () => [],
    quiet: nothing,
    markDirty: async () => aPage,
    dirtyEstimate: async () => 1,
    fireVectors: nothing,
    park: nothing,
    close: nothing,
  };
}

function playedMonitor(): QmpSession {
  const now = (name: string) => ({
    name,
    data: { status: 'completed' },
    timeUs: Date.now() * 1000,
    localUs: Date.now() * 1000,
    sequence: 1,
  });
  return {
    version: { major: 0, minor: 0, micro: 0, package: '' },
    lastEvent: 0,
    open: true,
    execute: async () => ({}),
    anticipate: () => undefined,
    hmp: async () => '',
    seen: () => undefined,
    waitFor: async (name) => {
      // As a destination that was told early to start: it runs before it says that all has arrived.
      if (name === 'MIGRATION') await immediate();
      return now(name);
    },
    close: async () => undefined,
  };
}
