import { frameworkVersion, stateName } from '../migration/index.ts';
import type { ConfigSpace } from '../pci/index.ts';
import { pciIrq, pciRegion } from '../vfio-user/constants.ts';
import { companionProtocol, type DeviceRegisters } from './companion.ts';
import type { DeviceRuntime } from './device-runtime.ts';

/**
 * What the companion operation `info` answers: where a device's registers, BARs and vectors are, and what state
 * it is in. Everything an orchestrator needs to replay configuration at a destination.
 */
export function describeDevice(runtime: DeviceRuntime): Record<string, unknown> {
  const { config, interrupts, migration } = runtime;
  const { msix, msi } = config;
  const bars = config.bars.map((bar) => {
    const { index, kind, size } = bar;
    const state = config.bar(index);
    return { index, kind, size, base: state?.base ?? 0, address: state?.address ?? null };
  });
  const table = interrupts.windows[0];
  const pba = interrupts.windows[1];
  return {
    protocol: companionProtocol,
    model: runtime.model.name,
    stateVersion: runtime.model.stateVersion,
    loadsVersions: runtime.model.loadsVersions ?? [],
    geometry: runtime.geometry,
    frameworkVersion,
    config: config.snapshot(),
    bars: bars.filter(({ index }) => index <= pciRegion.bar5),
    ...(msix && {
      msix: {
        capability: msix.capability,
        vectors: interrupts.irqInfo(pciIrq.msix).count,
        enabled: msix.enabled,
        functionMask: msix.functionMask,
        table: table && { bar: table.bar, offset: table.offset, size: table.size },
        pba: pba && { bar: pba.bar, offset: pba.offset, size: pba.size },
      },
    }),
    ...(msi && { msi: { capability: msi.capability, vectors: msi.vectors, enabled: msi.enabled } }),
    ...(config.pcieCapability !== undefined && { pcie: { capability: config.pcieCapability } }),
    pendingVectors: interrupts.pendingVectors,
    interruptMode: interrupts.mode,
    clientConnected: runtime.connected,
    held: runtime.held,
    broken: runtime.broken,
    state: migration?.state ?? null,
    stateName: migration ? stateName(migration.state) : null,
    operations: runtime.operations,
    dirtyScope: runtime.dirtyLog.scope,
    dmaLogging: runtime.dirtyLog.active,
  };
}

/** What of that changes while a guest runs. */
export function describeRegisters(config: ConfigSpace): DeviceRegisters {
  const addresses: (number | null)[] = Array.from({ length: pciRegion.bar5 + 1 }, () => null);
  for (const { index } of config.bars)
    if (index <= pciRegion.bar5) addresses[index] = config.bar(index)?.address ?? null;
  return { config: config.snapshot(), addresses };
}
