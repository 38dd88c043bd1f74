import { randomBytes } from 'node:crypto';
import type { DeviceModel, OptionTable } from '../device/model.ts';
import { dmaProt } from '../dma/types.ts';
import { type Logger, silentLogger } from '../log.ts';
import { migrationFlags, migrationState } from '../migration/state.ts';
import { command } from '../pci/index.ts';
import { closeFd, memfdCreate, sealSize, write } from '../posix/index.ts';
import { pciRegion } from '../vfio-user/constants.ts';
import { Stage } from './stage.ts';

/** What a rehearsal may take, ms: on an idle machine some twenty rounds, of which the first compiles most. */
const budgetMs = 60;
/** Mappings that QEMU takes away and makes again while it loads, about. */
const mapsPerRound = 8;
/** State in one piece; a device with more is not rehearsed further than that. */
const pieceBytes = 256 * 1024;
const pageSize = 4096;
const guestBytes = 4 * 1024 * 1024;
const otherMapping = { iova: 0x1000_0000, size: 2 * 1024 * 1024, prot: dmaProt.read | dmaProt.write };
const commandRegister = { offset: 4, size: 2 } as const;
const rehearsedPages = 64;

/**
 * Migrates fresh devices of `model` to each other, through sockets as it is done in earnest, so that what a blackout needs is not
 * run for the first time while a guest stands still: cold, it was found to take five times as long. The devices have default
 * options and are gone afterwards. A model that can't be rehearsed is served nevertheless: its migration will tell why.
 *
 * @returns whether state was moved
 */
export function rehearseMigration<T extends OptionTable>(model: DeviceModel<T>, log: Logger): boolean {
  const stages: Stage<T>[] = [];
  const make = (): Stage<T> => {
    const stage = new Stage(model, { log: silentLogger, held: true });
    stages.push(stage);
    return stage;
  };
  const window = makeWindow();
  try {
    const [source, destination] = [make(), make()];
    if (source.runtime.migration === undefined) return false;
    for (const stage of stages) settle(stage, window);
    const started = performance.now();
    do {
      if (!migrate(source, destination)) return false;
    } while (performance.now() - started < budgetMs);
    return true;
  } catch (error) {
    log.debug({ err: error }, 'a migration could not be rehearsed');
    return false;
  } finally {
    for (const stage of stages) stage.close();
    closeFd(window.fd);
  }
}

interface Window {
  readonly fd: number;
  readonly token: Uint8Array;
}

function makeWindow(): Window {
  const fd = memfdCreate('rehearsal', pieceBytes);
  const token = randomBytes(16);
  sealSize(fd);
  write(fd, token);
  return { fd, token };
}

/** As a guest and an orchestrator find a device. */
function settle<T extends OptionTable>(stage: Stage<T>, { fd, token }: Window): void {
  stage.guestMemory(0, guestBytes);
  const { offset, size } = commandRegister;
  stage.client.writeRegister(pciRegion.config, offset, command.memory | command.master, size);
  stage.orchestrator.companion('openStateWindow', { pid: process.pid, fd, size: pieceBytes, token });
}

/** @returns false when there is more state than is worth moving */
function migrate<T extends OptionTable>(from: Stage<T>, to: Stage<T>): boolean {
  const [source, destination] = [from.orchestrator, to.orchestrator];
  const flags = source.migrationFlags();
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const place = { offset: 0 };
  const move = (): boolean => {
    const { length } = source.companion('readState', { ...place, length: pieceBytes }) as { length: number };
    if (length > 0) destination.companion('writeState', { ...place, length });
    return length < pieceBytes;
  };
  source.startDmaLogging(pageSize);
  destination.setState(migrationState.RESUMING);
  if (has(migrationFlags.PRE_COPY)) {
    source.setState(migrationState.PRE_COPY);
    source.precopyInfo();
    if (!move()) return false;
  }
  source.companion('rehearseMarking', { pages: rehearsedPages });
  source.companion('dirtyEstimate');
  const p2p = has(migrationFlags.PRE_COPY) ? migrationState.PRE_COPY_P2P : migrationState.RUNNING_P2P;
  source.companion('rest', has(migrationFlags.P2P) ? { park: false, state: p2p } : { park: false });
  source.companion('halt');
  source.companion('markDirty');
  if (!move()) return false;
  destination.setState(migrationState.STOP);
  destination.setState(migrationState.RUNNING);
  remap(to);
  for (const each of [destination, source]) each.companion('fireVectors');
  source.setState(migrationState.RUNNING);
  source.stopDmaLogging();
  return true;
}

/** As QEMU does when it has loaded a guest's memory layout. */
function remap<T extends OptionTable>({ client }: Stage<T>): void {
  for (let count = 0; count < mapsPerRound; count++) {
    const fd = memfdCreate('rehearsal', otherMapping.size);
    try {
      client.dmaMap({ ...otherMapping, fd });
    } finally {
      closeFd(fd);
    }
    client.dmaUnmap(otherMapping.iova, otherMapping.size);
  }
}
