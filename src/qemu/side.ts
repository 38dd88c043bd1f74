/** One VM: its QEMU and the servers of its devices. */
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
