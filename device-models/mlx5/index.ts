import {
  type DeviceHost,
  type DeviceModel,
  defineModel,
  type PciDescription,
} from '../../src/device/index.ts';
import type { NetPort } from '../../src/net/types.ts';
import { Mlx5Device, type Mlx5Options } from './device.ts';
import { stateVersions } from './migration/device-state.ts';
import { noPort } from './no-port.ts';
import { barBytes } from './uar.ts';

export { Mlx5Device, type Mlx5Options } from './device.ts';

/** Makes the port that a specification (`tap:…`, `switch:…`, `none`) names, in the device's loop. */
export type OpenPort = (spec: string, host: DeviceHost) => NetPort;

const vendorMellanox = 0x15b3;
/** "ConnectX Family mlx5Gen Virtual Function": the id that every driver since 2016 knows. */
const deviceVirtualFunction = 0x101e;
const subsystemId = 0x0003;
const classEthernet = 0x020000;
const msixTableOffset = 0x2000;
const msixPbaOffset = 0x3000;
/** Table entries of 16 bytes between table and PBA. */
const maxVectors = 64;

const options = {
  vectors: {
    type: 'number',
    default: 9,
    min: 1,
    max: maxVectors,
    description:
      'MSI-X vectors; the guest makes one channel fewer than it has vectors (one shares its vector)',
  },
  mac: {
    type: 'string',
    default: '',
    description: 'MAC address (52:54:00:12:34:56); empty: a random one',
  },
  net: {
    type: 'string',
    default: 'none',
    description: 'where frames go: switch:PATH, stream:…, tap:NAME or none',
  },
} as const;

function describe(values: { readonly vectors: number }): PciDescription {
  return {
    vendorId: vendorMellanox,
    deviceId: deviceVirtualFunction,
    subsystemVendorId: vendorMellanox,
    subsystemId,
    classCode: classEthernet,
    bars: { 0: { size: barBytes, kind: 'memory64', prefetchable: true } },
    capabilities: {
      pcie: { functionLevelReset: true },
      msix: {
        vectors: values.vectors,
        table: { bar: 0, offset: msixTableOffset },
        pba: { bar: 0, offset: msixPbaOffset },
      },
    },
  };
}

/**
 * Makes one device.
 * @param port where its frames go; closed with the device
 */
export function createMlx5(host: DeviceHost, settings: Mlx5Options, port: NetPort): Mlx5Device {
  return new Mlx5Device(host, settings, port);
}

/** The model, with ports made by `openPort`. */
export function mlx5Model(openPort: OpenPort): DeviceModel<typeof options> {
  return defineModel({
    name: 'mlx5',
    description: 'NVIDIA/Mellanox ConnectX virtual function, for the stock mlx5_core driver',
    stateVersion: stateVersions.current,
    loadsVersions: [1, 2],
    options,
    pci: describe,
    create: (host, values) => createMlx5(host, values, openPort(values.net, host)),
  });
}

/** The model with no network: the link is up and nothing is there. */
export const model = mlx5Model(noPort);
