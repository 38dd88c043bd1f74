import { readFileSync } from 'node:fs';
import koffi, { type LibraryHandle } from 'koffi';
import { reasonOf } from '../errors.ts';

/**
 * Looks at a `libvfio-user.so` before anything in it is called.
 *
 * The library promises no stable ABI and exports no version, so a generation is told by what the file
 * holds: symbols where they differ, else a message of its own that came with the change.
 */

/** `v2`: upstream since March 2026, migration protocol v2. `v1`: 2022, as in Debian's QEMU source. */
export type LibraryGeneration = 'v1' | 'v2';

/** What the binding calls, in both generations. */
export const requiredSymbols = [
  'vfu_addr_to_sgl',
  'vfu_attach_ctx',
  'vfu_create_ctx',
  'vfu_destroy_ctx',
  'vfu_device_quiesced',
  'vfu_get_poll_fd',
  'vfu_irq_trigger',
  'vfu_pci_add_capability',
  'vfu_pci_get_config_space',
  'vfu_pci_init',
  'vfu_pci_set_class',
  'vfu_pci_set_id',
  'vfu_realize_ctx',
  'vfu_run_ctx',
  'vfu_setup_device_dma',
  'vfu_setup_device_migration_callbacks',
  'vfu_setup_device_nr_irqs',
  'vfu_setup_device_quiesce_cb',
  'vfu_setup_device_reset_cb',
  'vfu_setup_irq_state_callback',
  'vfu_setup_log',
  'vfu_setup_region',
  'vfu_sg_is_mappable',
  'vfu_sgl_get',
  'vfu_sgl_mark_dirty',
  'vfu_sgl_put',
  'vfu_sgl_read',
  'vfu_sgl_write',
  'dma_sg_size',
] as const;

/** Only in libraries whose migration goes through a region (protocol v1). */
const v1Symbol = 'vfu_get_migr_register_area_size';

/**
 * A log format of the change that gave `vfu_setup_device_dma` its second argument, the number of regions.
 * Without that argument a call would take the number for a callback.
 */
const maxRegionsMarker = 'hit max regions %zu';

/** Why the library at `path` cannot be used, or `undefined` if it can. It is loaded, nothing is called. */
export function libraryFault(path: string): string | undefined {
  let library: LibraryHandle;
  try {
    library = koffi.load(path);
  } catch (error) {
    return `cannot be loaded (${reasonOf(error)})`;
  }
  const missing = requiredSymbols.find((name) => !has(library, name));
  if (missing !== undefined) return `has no symbol ${missing}`;
  if (!has(library, v1Symbol) && !holds(path, maxRegionsMarker)) {
    return 'its vfu_setup_device_dma differs (a libvfio-user from between September 2023 and March 2026)';
  }
  return undefined;
}

/** The generation of a library in which `libraryFault` found nothing. */
export function libraryGeneration(path: string): LibraryGeneration {
  return has(koffi.load(path), v1Symbol) ? 'v1' : 'v2';
}

function has(library: LibraryHandle, name: string): boolean {
  try {
    library.symbol(name);
    return true;
  } catch {
    return false;
  }
}

function holds(path: string, text: string): boolean {
  return readFileSync(path).includes(text);
}
