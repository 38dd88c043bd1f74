/**
 * npm `qemu-qmp` as it is, but for one thing: it takes `util._extend` when it is loaded and calls it on each connection, of which
 * newer versions of Node warn (DEP0060). It gets `Object.assign` instead, which does the same.
 */
import { createRequire } from 'node:module';
import util from 'node:util';
import type QMP from 'qemu-qmp';

const legacy = util as { _extend?: unknown };
const deprecated = legacy._extend;
legacy._extend = Object.assign;
export const BareQmp = createRequire(import.meta.url)('qemu-qmp') as typeof QMP;
legacy._extend = deprecated;
