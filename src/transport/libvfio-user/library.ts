import koffi from 'koffi';
import type { LibraryGeneration } from '../../setup/libvfio-user-library.ts';

/** A C function with integer arguments and an integer result; pointers are plain numbers, as in src/posix/libc.ts. */
type Native<A extends (number | string)[]> = (...args: A) => number;

const pointer = 'uintptr_t';
const size = 'size_t';

/** The functions of libvfio-user.h that the transport calls. Loading runs nothing of the library. */
export function bindLibrary(path: string, generation: LibraryGeneration) {
  const library = koffi.load(path);
  function bind<A extends (number | string)[]>(name: string, result: string, args: string[]): Native<A> {
    return library.func(name, result, args) as unknown as Native<A>;
  }
  const setupDmaV1 = () =>
    bind<[context: number, register: number, unregister: number]>('vfu_setup_device_dma', 'int', [
      pointer,
      pointer,
      pointer,
    ]);
  const setupDmaV2 = () =>
    bind<[context: number, maxRegions: number, register: number, unregister: number]>(
      'vfu_setup_device_dma',
      'int',
      [pointer, size, pointer, pointer],
    );
  return {
    path,
    generation,
    createContext: bind<[transport: number, path: string, flags: number, data: number, type: number]>(
      'vfu_create_ctx',
      pointer,
      ['int', 'str', 'int', pointer, 'int'],
    ),
    realize: bind<[context: number]>('vfu_realize_ctx', 'int', [pointer]),
    attach: bind<[context: number]>('vfu_attach_ctx', 'int', [pointer]),
    run: bind<[context: number]>('vfu_run_ctx', 'int', [pointer]),
    pollFd: bind<[context: number]>('vfu_get_poll_fd', 'int', [pointer]),
    destroy: bind<[context: number]>('vfu_destroy_ctx', 'void', [pointer]),
    setupLog: bind<[context: number, callback: number, level: number]>('vfu_setup_log', 'int', [
      pointer,
      pointer,
      'int',
    ]),
    pciInit: bind<[context: number, type: number, header: number, revision: number]>('vfu_pci_init', 'int', [
      pointer,
      'int',
      'int',
      'int',
    ]),
    pciSetId: bind<[context: number, vendor: number, device: number, subVendor: number, subDevice: number]>(
      'vfu_pci_set_id',
      'void',
      [pointer, 'uint16_t', 'uint16_t', 'uint16_t', 'uint16_t'],
    ),
    setupRegion: bind<
      [
        context: number,
        index: number,
        size: number,
        callback: number,
        flags: number,
        areas: number,
        areaCount: number,
        fd: number,
        offset: number,
      ]
    >('vfu_setup_region', 'int', [
      pointer,
      'int',
      size,
      pointer,
      'int',
      pointer,
      'uint32_t',
      'int',
      'uint64_t',
    ]),
    setupIrqCount: bind<[context: number, index: number, count: number]>('vfu_setup_device_nr_irqs', 'int', [
      pointer,
      'int',
      'uint32_t',
    ]),
    setupReset: bind<[context: number, callback: number]>('vfu_setup_device_reset_cb', 'int', [
      pointer,
      pointer,
    ]),
    setupQuiesce: bind<[context: number, callback: number]>('vfu_setup_device_quiesce_cb', 'void', [
      pointer,
      pointer,
    ]),
    /** The number of regions came with v2; a library from between is refused by src/setup/libvfio-user-library.ts. */
    setupDma(context: number, maxRegions: number, register: number, unregister: number): number {
      if (generation === 'v1') return setupDmaV1()(context, register, unregister);
      return setupDmaV2()(context, maxRegions, register, unregister);
    },
    /** v2 only: the 2022 copy's function of this name takes another structure and a third argument. */
    setupMigration: bind<[context: number, callbacks: number]>(
      'vfu_setup_device_migration_callbacks',
      'int',
      [pointer, pointer],
    ),
    sgSize: bind<[]>('dma_sg_size', size, []),
    addressToSgl: bind<
      [context: number, address: number, length: number, sgl: number, count: number, prot: number]
    >('vfu_addr_to_sgl', 'int', [pointer, pointer, size, pointer, size, 'int']),
    sglMarkDirty: bind<[context: number, sgl: number, count: number]>('vfu_sgl_mark_dirty', 'void', [
      pointer,
      pointer,
      size,
    ]),
  } as const;
}

export type VfuLibrary = ReturnType<typeof bindLibrary>;
