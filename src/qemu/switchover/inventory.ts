/** The devices that a VM's command line has made. */

import { listAt, textAt } from '../answers.ts';
import { refusal } from '../errors.ts';
import type { QmpSession } from '../qmp.ts';

const vfioUserType = 'vfio-user-pci';

interface QomChild {
  readonly path: string;
  readonly type: string;
}

/** User-made devices of a VM, with or without an id. */
export async function peripherals(qmp: QmpSession): Promise<QomChild[]> {
  const children: QomChild[] = [];
  for (const parent of ['/machine/peripheral', '/machine/peripheral-anon']) {
    for (const child of listAt(await qmp.execute('qom-list', { path: parent }))) {
      const type = /^child<(.*)>$/.exec(textAt(child, 'type'))?.[1];
      if (type !== undefined) children.push({ path: `${parent}/${textAt(child, 'name')}`, type });
    }
  }
  return children;
}

/**
 * Every vfio-user device of a VM must be named, and once.
 * @param unnamed what to say of one that is not
 */
export async function checkNamed(
  qmp: QmpSession,
  who: string,
  ids: readonly string[],
  unnamed: { readonly is: string; readonly wayOut: string },
): Promise<void> {
  const named = new Set(ids.map((id) => `/machine/peripheral/${id}`));
  if (named.size !== ids.length) throw refusal('VC_DEVICES', 'a device is named twice');
  const paths = (await peripherals(qmp)).filter(({ type }) => type === vfioUserType).map(({ path }) => path);
  const missing = [...named].filter((path) => !paths.includes(path));
  if (missing.length > 0)
    throw refusal(
      'VC_DEVICES',
      `${who} has no vfio-user-pci device ${missing.map(baseName).join(', ')}`,
      paths.length === 0
        ? 'it has none at all'
        : `a device is named by its id= in QEMU; there is ${paths.map(baseName).join(', ')}`,
    );
  const extra = paths.filter((path) => !named.has(path));
  if (extra.length > 0)
    throw refusal(
      'VC_DEVICES',
      `${who} has a vfio-user-pci device that is ${unnamed.is}: ${extra.map(baseName).join(', ')}`,
      unnamed.wayOut,
    );
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}
