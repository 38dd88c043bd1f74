/** One VM: its QEMU and the servers of its devices. */
import { CompanionError } from '../errors.ts';
import type { DevicePeer } from './device-peer.ts';
import { Qmp, type QmpAddress } from './qmp.ts';
import { reached, socketHint } from './reached.ts';
import type { MigrateOptions, Timeouts } from './switchover/options.ts';

export interface ConnectedSide {
  readonly qemu: Qmp;
  readonly devices: readonly { readonly id: string; readonly peer: DevicePeer }[];
  /** Ends all sessions; the parties go on. */
  close(): Promise<void>;
}

/** Tells of the first party that goes away by itself. */
export function watchSide(side: ConnectedSide, lost: (error: CompanionError) => void): void {
  const tell = (who: string, why: Error | undefined): void => {
    if (why !== undefined) lost(new CompanionError('VC_PEER_LOST', `${who} is gone (${why.message})`));
  };
  side.qemu.on('close', (why) => tell('the QEMU', why));
  for (const { id, peer } of side.devices)
    void peer.ended.then((why) => tell(`the server of device ${id}`, why));
}

/** Opens every connection; closes those already open when one fails. */
export async function connectSide(
  qmp: QmpAddress,
  devices: readonly { readonly id: string; readonly socket: string }[],
  timeouts: Timeouts,
  connectDevice?: MigrateOptions['connectDevice'],
): Promise<ConnectedSide> {
  const connect = connectDevice ?? (await import('./vfio-user-peer.ts')).connectPeer;
  const opened: { close(): Promise<void> }[] = [];
  const close = async (): Promise<void> => {
    await Promise.allSettled(opened.map((each) => each.close()));
  };
  try {
    const qemu = await Qmp.connect(qmp, { timeoutMs: timeouts.connect, commandTimeoutMs: timeouts.command });
    opened.push(qemu);
    const connected: { id: string; peer: DevicePeer }[] = [];
    for (const { id, socket } of devices) {
      const peer = await reached(`device ${id} (${socket})`, connect(socket, timeouts), socketHint);
      opened.push(peer);
      connected.push({ id, peer });
    }
    return { qemu, devices: connected, close };
  } catch (error) {
    await close();
    throw error;
  }
}
