/** Puts header, capability chain and extended chain together into one layout. */

import type { PciDescription } from '../device/pci-description.ts';
import { type BarLayout, layoutBars } from './bars.ts';
import { type Capability, standardCapabilities } from './capabilities.ts';
import { PciDescriptionError } from './errors.ts';
import { capabilityArea, headerRegisters } from './header.ts';
import { ConfigLayout } from './layout.ts';
import { validateDescription } from './validate.ts';

/** Extended configuration space (PCIe Base 3.0 section 7.9). */
const extendedArea = { start: 0x100, end: 0x1000 } as const;
const extendedHeaderSize = 4;

/** A function's configuration space, laid out. */
export interface FunctionLayout {
  readonly config: ConfigLayout;
  readonly bars: readonly BarLayout[];
  /** Offset of each standard capability by name (`pm`, `pcie`, `msi`, `msix`, `vendor0` …). */
  readonly capabilities: ReadonlyMap<string, number>;
}

/** Checks `description` and lays it out. Throws `PciDescriptionError`. */
export function layoutFunction(description: PciDescription): FunctionLayout {
  validateDescription(description);
  const wanted = description.capabilities;
  const isExtended = wanted?.pcie !== undefined || (wanted?.extended?.length ?? 0) > 0;
  const config = new ConfigLayout(isExtended ? extendedArea.end : extendedArea.start);
  const bars = layoutBars(description);
  const standard = standardCapabilities(description);
  const places = placeStandard(standard);
  config.place(0, headerRegisters(description, bars, places[0] ?? 0));
  standard.forEach((capability, i) => {
    const at = places[i] ?? 0;
    config.placeBytes(at, Uint8Array.of(capability.id, places[i + 1] ?? 0));
    if (capability.body !== undefined) config.placeBytes(at + 2, capability.body);
    config.place(at, capability.registers, capability.name);
  });
  placeExtended(config, description);
  return { config, bars, capabilities: new Map(standard.map(({ name }, i) => [name, places[i] ?? 0])) };
}

function placeStandard(capabilities: readonly Capability[]): number[] {
  const places: number[] = [];
  let at: number = capabilityArea.start;
  for (const capability of capabilities) {
    if (at + capability.length > capabilityArea.end)
      throw new PciDescriptionError(
        `capability ${capability.name} (${capability.length} bytes) does not fit below 0x100: only ${capabilityArea.end - at} bytes are left`,
        'shorten or drop vendor capabilities, or move them to `extended`',
      );
    places.push(at);
    at += alignDword(capability.length);
  }
  return places;
}

function placeExtended(config: ConfigLayout, description: PciDescription): void {
  const extended = description.capabilities?.extended ?? [];
  let at: number = extendedArea.start;
  extended.forEach((capability, i) => {
    const length = extendedHeaderSize + capability.body.length;
    if (at + length > extendedArea.end)
      throw new PciDescriptionError(
        `capabilities.extended[${i}] does not fit into the 4096 bytes of a function`,
      );
    const next = i + 1 < extended.length ? at + alignDword(length) : 0;
    const header = (((next << 20) >>> 0) | (capability.version << 16) | capability.id) >>> 0;
    config.place(at, [{ name: 'header', offset: 0, size: 4, value: header }], `extended${i}`);
    config.placeBytes(at + extendedHeaderSize, capability.body);
    at += alignDword(length);
  });
}

function alignDword(length: number): number {
  return Math.ceil(length / 4) * 4;
}
