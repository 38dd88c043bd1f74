import { beyondGeneral, capability, capabilityType, capabilityTypes } from '../caps.ts';
import type { Mlx5Core } from '../core.ts';
import { functionPhase } from '../function-state.ts';
import { limits } from '../limits.ts';
import { adapterPageBytes } from '../memory.ts';
import {
  enableHcaIn,
  initHcaIn,
  managePagesIn,
  managePagesOut,
  queryAdapterOut,
  queryAdapterParamBlock,
  queryHcaCapOut,
  queryIssiOut,
  queryPagesOut,
  querySpecialContextsOut,
  setHcaCapIn,
  setIssiIn,
} from '../prm/index.ts';
import { badParam, require } from '../refusal.ts';
import { isAddress } from '../work-queue.ts';
import { command, opMod } from './command.ts';

/** Board id that `ethtool -i` shows behind the firmware version. */
export const boardId = 'VFC0000000001';
const mellanoxOui = 0x0002c9;
/** Bit n: interface step sequence id n is understood. */
const supportedIssi = 0b10;
const pagesOpMod = { BOOT: 1, INIT: 2, REGULAR: 3 } as const;
const managePagesOpMod = { CANT_GIVE: 0, GIVE: 1, TAKE: 2 } as const;
const { DISABLED, ENABLED, INITIALIZED } = functionPhase;
/** `MLX5_INVALID_LKEY`-like null key. */
const nullMkey = 0x100;

function queryHcaCap(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const type = opMod(input) >>> 1;
  require(type < capabilityTypes, 'unknownCapability', `capability type ${type}`);
  const current = (opMod(input) & 1) === 1;
  const value = current ? core.function.current(type) : capability(type);
  value.copy(output, queryHcaCapOut.byte('capability'));
}

function setHcaCap(core: Mlx5Core, input: Buffer): void {
  const type = opMod(input) >>> 1;
  require(type === capabilityType.GENERAL, 'capabilityFixed', `capability type ${type} can't be set`);
  core.function.requireUninitialized();
  const at = setHcaCapIn.byte('capability');
  const beyond = beyondGeneral(input, at);
  require(beyond === undefined, 'capabilityFixed', `more of ${beyond} than there is`);
  input.copy(core.function.general, 0, at, at + core.function.general.length);
}

function managePages(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const count = managePagesIn.get(input, 'input_num_entries');
  const pages = core.function.pages;
  switch (opMod(input)) {
    case managePagesOpMod.CANT_GIVE:
      return;
    case managePagesOpMod.GIVE: {
      const at = managePagesIn.byte('pas');
      require(count <= limits.grantedPages - pages.length, 'tooManyPages', `${count} pages given`);
      require(input.length >= at + 8 * count, 'badPageList', 'page list is cut off');
      const given: number[] = [];
      for (let index = 0; index < count; index++) {
        const high = input.readUInt32BE(at + 8 * index);
        const page = high * 2 ** 32 + input.readUInt32BE(at + 8 * index + 4);
        require(isAddress(page, adapterPageBytes, adapterPageBytes), 'badAddress', 'page not aligned');
        given.push(page);
      }
      for (const page of given) core.function.give(page);
      return;
    }
    case managePagesOpMod.TAKE: {
      const at = managePagesOut.byte('pas');
      const room = Math.floor((output.length - at) / 8);
      const taken = pages.splice(0, Math.min(count, room));
      taken.forEach((page, index) => {
        output.writeUInt32BE(Math.floor(page / 2 ** 32), at + 8 * index);
        output.writeUInt32BE(page >>> 0, at + 8 * index + 4);
      });
      managePagesOut.set(output, 'output_num_entries', taken.length);
      return;
    }
    default:
      throw badParam('unsupportedType', `MANAGE_PAGES op_mod ${opMod(input)}`);
  }
}

function queryAdapter(_core: Mlx5Core, _input: Buffer, output: Buffer): void {
  const at = queryAdapterOut.byte('query_adapter_struct');
  queryAdapterParamBlock.set(output, 'ieee_vendor_id', mellanoxOui, at);
  output.write(boardId, at + queryAdapterParamBlock.byte('vsd_contd_psid'), 'latin1');
}

/** Bring-up, capabilities and pages. */
export const functionCommands = [
  command(
    'ENABLE_HCA',
    enableHcaIn,
    undefined,
    (core, input) => {
      require(enableHcaIn.get(input, 'function_id') === 0, 'otherFunction', 'another function');
      // Also of a function that is enabled. Whatever there is belongs to nobody: a system that crashed has left it to the kernel
      // that dumps it (kexec resets no device), or a reset came in the middle of the command that made it.
      core.disable();
      core.function.phase = ENABLED;
    },
    DISABLED,
  ),
  // Initialized or not: so Linux undoes an INIT_HCA after which something failed.
  command('DISABLE_HCA', undefined, undefined, (core) => core.disable(), ENABLED),
  command(
    'QUERY_ISSI',
    undefined,
    queryIssiOut,
    (core, _input, output) => {
      queryIssiOut.set(output, 'current_issi', core.function.issi);
      queryIssiOut.set(output, 'supported_issi_dw0', supportedIssi);
    },
    ENABLED,
  ),
  command(
    'SET_ISSI',
    setIssiIn,
    undefined,
    (core, input) => {
      const issi = setIssiIn.get(input, 'current_issi');
      require(issi < 32 && ((supportedIssi >>> issi) & 1) === 1, 'unsupportedType', `ISSI ${issi}`);
      core.function.issi = issi;
    },
    ENABLED,
  ),
  command(
    'QUERY_PAGES',
    undefined,
    queryPagesOut,
    (core, input, output) => {
      const mode = opMod(input);
      require(mode >= pagesOpMod.BOOT && mode <= pagesOpMod.REGULAR, 'unsupportedType', `op_mod ${mode}`);
      // None are wanted; what was given all the same is asked to be taken back.
      const wanted = mode === pagesOpMod.REGULAR ? -core.function.pages.length : 0;
      queryPagesOut.set(output, 'num_pages', wanted >>> 0);
    },
    ENABLED,
  ),
  command('MANAGE_PAGES', managePagesIn, managePagesOut, managePages, ENABLED),
  command('QUERY_HCA_CAP', undefined, queryHcaCapOut, queryHcaCap, ENABLED),
  command('SET_HCA_CAP', setHcaCapIn, undefined, setHcaCap, ENABLED),
  command(
    'INIT_HCA',
    { size: initHcaIn.size - 16 },
    undefined,
    (core) => {
      core.function.requireUninitialized();
      core.function.phase = INITIALIZED;
    },
    ENABLED,
  ),
  command('TEARDOWN_HCA', undefined, undefined, (core) => {
    core.clearObjects();
    core.function.phase = ENABLED;
  }),
  command('QUERY_ADAPTER', undefined, queryAdapterOut, queryAdapter),
  command('QUERY_SPECIAL_CONTEXTS', undefined, querySpecialContextsOut, (_core, _input, output) => {
    querySpecialContextsOut.set(output, 'null_mkey', nullMkey);
    querySpecialContextsOut.set(output, 'resd_lkey', nullMkey);
  }),
  command('NOP', undefined, undefined, () => {}, DISABLED),
];
