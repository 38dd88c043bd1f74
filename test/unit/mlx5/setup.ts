import { Mlx5Device } from '../../../device-models/mlx5/index.ts';
import { FakeDriver } from './driver.ts';
import { FakeHost, FakePort } from './fake-host.ts';

export const testMac = '52:54:00:12:34:56';

export interface Bench {
  readonly host: FakeHost;
  readonly port: FakePort;
  readonly device: Mlx5Device;
  readonly driver: FakeDriver;
}

/** A fresh device with a driver that has not begun. */
export function bench(vectors = 3, host = new FakeHost(), mac: string = testMac): Bench {
  const port = new FakePort();
  const device = new Mlx5Device(host, { vectors, mac }, port);
  return { host, port, device, driver: new FakeDriver(host, device) };
}

/** A device whose driver has probed and brought its interface up. */
export function running(channels = 1, vectors = channels + 2): Bench {
  const made = bench(vectors);
  made.driver.probe(vectors);
  made.driver.up(channels);
  return made;
}
