/** The processes behind monitors, as far as somebody has to know. */
import type { QmpAddress } from '../qmp.ts';
import { pidOfUnixSocket } from '../ram-proof.ts';
import type { Run } from './run.ts';

/** Who listens at a monitor. Looked for once, before the blackout: that goes through all processes. */
export function listenerAt({ listeners }: Pick<Run, 'listeners'>, address: QmpAddress): number | undefined {
  if (typeof address !== 'string') return undefined;
  const pid = listeners.get(address) ?? pidOfUnixSocket(address);
  if (pid !== undefined) listeners.set(address, pid);
  return pid;
}
