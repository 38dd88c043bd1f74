/** RAM goes by TLS where the migration parameter `tls-creds` names credentials: an object of each QEMU, which whoever started it has made. */

import { textAt } from '../answers.ts';
import { QmpError, refusal } from '../errors.ts';
import type { QmpSession } from '../qmp.ts';
import type { Run } from './run.ts';

const parameter = 'tls-creds';
/** What the credentials of a side are for (`endpoint`): the source connects. */
const endpoints = { source: 'client', destination: 'server' } as const;

type SideName = keyof typeof endpoints;

/** Refuses credentials that a QEMU has not, or for the other end: QEMU looks only when it connects, and a destination has to be ended then. */
export async function checkTls(run: Run): Promise<void> {
  const given = run.options.parameters?.[parameter];
  const [source, destination] = await Promise.all([
    credentials(run.source, given),
    credentials(run.destination, given),
  ]);
  if ((source === '') !== (destination === ''))
    throw refusal(
      'VC_TLS',
      `only the ${source === '' ? 'destination' : 'source'} QEMU is set to migrate by TLS`,
      `--parameter ${parameter}=ID names the credentials of both`,
    );
  if (source === '') return;
  await Promise.all([
    checkCredentials('source', run.source, source),
    checkCredentials('destination', run.destination, destination),
  ]);
}

/** The id of those that a QEMU will use; empty: none, which null says to QEMU, too. */
async function credentials(qemu: QmpSession, given: unknown): Promise<string> {
  if (given === undefined) return textAt(await qemu.execute('query-migrate-parameters'), parameter);
  return String(given ?? '');
}

async function checkCredentials(side: SideName, qemu: QmpSession, id: string): Promise<void> {
  const wanted = endpoints[side];
  const wayOut = `object-add (QMP) or -object: tls-creds-x509 or tls-creds-psk with id=${id},endpoint=${wanted}`;
  let endpoint: unknown;
  try {
    endpoint = await qemu.execute('qom-get', { path: `/objects/${id}`, property: 'endpoint' });
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    throw refusal('VC_TLS', `the ${side} QEMU has no TLS credentials ${id}`, wayOut);
  }
  if (endpoint !== wanted)
    throw refusal(
      'VC_TLS',
      `the TLS credentials ${id} of the ${side} QEMU are a ${String(endpoint)}'s, and it will be the ${wanted}`,
      wayOut,
    );
}
