/** Device models from outside of this tree: a module in place of a name. */
import { statSync } from 'node:fs';
import * as nodeModule from 'node:module';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { DeviceModel } from '../device/model.ts';
import { CompanionError } from '../errors.ts';
import { isModel, modelFaults, resemblesModel } from './model-check.ts';
import { initialize, resolve as resolveOwn } from './own-package-hook.ts';

/** A module that can't be loaded, or that exports no device model. */
export class ModelModuleError extends CompanionError {
  constructor(message: string, hint: string, cause?: unknown) {
    super('VC_MODEL_MODULE', message, { hint, cause });
  }
}

/** Whether MODEL of `serve MODEL` is a module (it has a slash, or ends as one) and not the name of a model. */
export function isModelPath(text: string): boolean {
  return text.includes('/') || /\.[cm]?[jt]s$/.test(text);
}

/**
 * Imports the module at `path` (relative to the working directory, or a file: URL) and returns its model: the
 * default export, or else the one export that is a model.
 *
 * The module's `import … from 'vfio-companion/device'` gives this program's own copy, installed or not: errors and
 * classes are then the same on both sides.
 *
 * @throws ModelModuleError saying what is wrong with the file, the module or the model, and the way out
 */
export async function loadModel(path: string): Promise<DeviceModel> {
  const file = fileOf(path);
  if (statSync(file, { throwIfNoEntry: false })?.isFile() !== true)
    throw new ModelModuleError(
      `there is no file ${file}`,
      'give the path of a module, or the name of a model that "vfio-companion models" lists',
    );
  preferOwnPackage();
  let exports: Readonly<Record<string, unknown>>;
  try {
    exports = await import(pathToFileURL(file).href);
  } catch (error) {
    throw importFailure(path, file, error);
  }
  return pickModel(exports, path);
}

function fileOf(path: string): string {
  try {
    return path.startsWith('file:') ? fileURLToPath(path) : resolve(path);
  } catch (error) {
    throw new ModelModuleError(`${path} names no file`, 'give the path of a module', error);
  }
}

/** The model among the exports of the module that was given as `path`. */
export function pickModel(exports: Readonly<Record<string, unknown>>, path: string): DeviceModel {
  const hint = 'see docs/writing-a-device.md: export default defineModel({ … })';
  const { default: main } = exports;
  if (main !== undefined) return checked(main, `the default export of ${path}`, hint);
  const found = Object.entries(exports).filter(([, value]) => resemblesModel(value));
  const [first, ...others] = found;
  if (first === undefined) {
    const names = Object.keys(exports);
    const what = names.length === 0 ? 'nothing' : `only ${names.join(', ')}`;
    throw new ModelModuleError(`${path} exports no device model, ${what}`, hint);
  }
  if (others.length > 0)
    throw new ModelModuleError(
      `${path} exports ${found.length} device models: ${found.map(([name]) => name).join(', ')}`,
      'make the one that is meant the default export',
    );
  return checked(first[1], `export ${first[0]} of ${path}`, hint);
}

function checked(value: unknown, what: string, hint: string): DeviceModel {
  if (isModel(value)) return value;
  throw new ModelModuleError(`${what} is no device model: ${modelFaults(value).join('; ')}`, hint);
}

function importFailure(path: string, file: string, error: unknown): ModelModuleError {
  const { code, message, stack } = error instanceof Error ? (error as NodeJS.ErrnoException) : {};
  const reason = message ?? String(error);
  const hint = (): string => {
    if (code === 'ERR_UNKNOWN_FILE_EXTENSION')
      return 'compile it to JavaScript first (tsc), or use Node 22.18 or newer';
    if (code === 'ERR_MODULE_NOT_FOUND') return 'install what it imports in its own folder';
    if (error instanceof SyntaxError)
      return (
        `node --check ${file} says where; a file with import and export is called .mjs, ` +
        'or .js where package.json says "type": "module"'
      );
    const where = stack?.split('\n').find((line) => line.includes(pathToFileURL(file).href));
    return where === undefined ? 'the module fails while it is imported' : `it fails ${where.trim()}`;
  };
  return new ModelModuleError(`${path} can't be imported: ${reason}`, hint(), error);
}

let preferred = false;

/** Node 22.15 and 23.5 have hooks that need no thread of their own; Node 26 warns of the older ones, which 20 has only. */
interface HooksOfThisThread {
  readonly registerHooks?: (hooks: { readonly resolve: typeof resolveOwn }) => unknown;
}

/** From now on `vfio-companion/…` is this very package for whatever is imported. */
function preferOwnPackage(): void {
  if (preferred) return;
  preferred = true;
  const data = { parentURL: import.meta.url };
  const { registerHooks } = nodeModule as HooksOfThisThread;
  if (registerHooks === undefined) {
    const extension = import.meta.url.slice(import.meta.url.lastIndexOf('.'));
    nodeModule.register(`./own-package-hook${extension}`, import.meta.url, { data });
    return;
  }
  initialize(data);
  registerHooks({ resolve: resolveOwn });
}
