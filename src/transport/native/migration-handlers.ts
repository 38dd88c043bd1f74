import { errno, RequestError, reasonOf } from '../../errors.ts';
import { packPlain, unpackPlain } from '../../msgpack.ts';
import { messages } from '../../vfio-user/messages.ts';
import * as s from '../../vfio-user/structs.ts';
import type { ServedMigration } from '../served-device.ts';
import { serveFeature } from './features.ts';
import { type Handler, type HandlerContext, handler } from './handler.ts';

const onBoth = { roles: ['device', 'migration'] } as const;

function migrationOf({ device }: HandlerContext, what: string): ServedMigration {
  const { migration } = device;
  if (migration === undefined) {
    throw new RequestError(errno.EINVAL, `${what}: ${device.name} can't migrate`);
  }
  return migration;
}

function checkTransfer({ offer, peer }: HandlerContext, what: string, size: number): void {
  const limit = Math.min(offer.maxDataXferSize, peer.maxDataXferSize);
  if (size > limit) throw new RequestError(errno.EINVAL, `${what}: ${size} bytes, ${limit} were negotiated`);
}

const deviceFeature = handler(messages.DEVICE_FEATURE, onBoth, (context, { value, data }) => {
  // A larger bitmap is made for the occasion, not kept.
  const scratch = (size: number) =>
    size <= context.offer.maxDataXferSize ? context.scratch(size) : Buffer.allocUnsafeSlow(size);
  const { device } = context;
  const { argsz, flags, data: reply } = serveFeature(device.migration, { ...value, data }, scratch);
  return { value: { argsz, flags }, data: reply };
});

/**
 * On the device socket the reply is always as long as was asked for, as libvfio-user's is (lib/migration.c,
 * handle_mig_data_read): its clients receive exactly that much. `size` says how much of it counts.
 */
const migDataRead = handler(messages.MIG_DATA_READ, onBoth, (context, { value }) => {
  const { argsz, size } = value;
  const migration = migrationOf(context, 'MIG_DATA_READ');
  checkTransfer(context, 'MIG_DATA_READ', size);
  if (argsz < s.migData.size + size) {
    throw new RequestError(errno.EINVAL, `MIG_DATA_READ: argsz ${argsz} is too small for ${size} bytes`);
  }
  // A blackout may wait for the replies to what was asked before.
  context.sendReplies();
  const target = context.scratch(size).subarray(0, size);
  const read = migration.read(target);
  const padded = context.role === 'device';
  if (padded) target.fill(0, read);
  return {
    value: { argsz: s.migData.size + read, size: read },
    data: padded ? target : target.subarray(0, read),
  };
});

/** `argsz` is the most that the reply may hold (vfio-user.rst), which holds nothing: any will do. */
const migDataWrite = handler(messages.MIG_DATA_WRITE, onBoth, (context, { value, data }) => {
  const { size } = value;
  const migration = migrationOf(context, 'MIG_DATA_WRITE');
  checkTransfer(context, 'MIG_DATA_WRITE', size);
  if (data.length < size) {
    throw new RequestError(errno.EINVAL, `MIG_DATA_WRITE: size is ${size}, but ${data.length} bytes follow`);
  }
  migration.write(data.subarray(0, size));
  return { value: {} };
});

const migPrecopyInfo = handler(messages.MIG_PRECOPY_INFO, onBoth, (context, { value }) => {
  if (value.argsz < s.precopyInfo.size) {
    throw new RequestError(errno.EINVAL, `MIG_PRECOPY_INFO: argsz ${value.argsz} is too small`);
  }
  const { initialBytes, dirtyBytes, flags } = migrationOf(context, 'MIG_PRECOPY_INFO').precopyInfo();
  return {
    value: { argsz: s.precopyInfo.size, flags, initial_bytes: initialBytes, dirty_bytes: dirtyBytes },
  };
});

const companion = handler(
  messages.COMPANION,
  { roles: ['migration'] },
  ({ companion: serve, peer, sendReplies }, { data }) => {
    if (serve === undefined || !peer.companion) {
      throw new RequestError(errno.EINVAL, 'COMPANION: the capability vfio_companion was not negotiated');
    }
    let request: unknown;
    try {
      request = unpackPlain(data);
    } catch (cause) {
      const reason = reasonOf(cause);
      throw new RequestError(errno.EINVAL, `COMPANION: the payload is not plain msgpack: ${reason}`, {
        cause,
      });
    }
    return { value: {}, data: packPlain(serve(request, sendReplies)) };
  },
);

/** The requests of migration: all on the migration socket, those of the specification on both. */
export const migrationHandlers: readonly Handler[] = [
  deviceFeature,
  migDataRead,
  migDataWrite,
  migPrecopyInfo,
  companion,
];
