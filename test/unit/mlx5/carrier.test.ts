import { expect, it } from 'vitest';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { buildFrame } from './frames.ts';
import { running } from './setup.ts';

const adminState = { down: 0, up: 1 } as const;

it('a virtual port that is switched off has no carrier: nothing leaves and nothing comes', () => {
  const { driver, port, device } = running();
  const setPort = (state: number): void => {
    const input = Buffer.alloc(16);
    prm.modifyVportStateIn.set(input, 'admin_state', state);
    driver.command('MODIFY_VPORT_STATE', input);
  };
  const carrier = (): number =>
    prm.queryVportStateOut.get(driver.command('QUERY_VPORT_STATE', Buffer.alloc(16), 16), 'state');
  const frame = buildFrame({ dst: driver.mac });
  const passes = (): { sent: number; received: number } => {
    const before = { sent: port.sent.length, received: driver.received.length };
    driver.send(frame);
    port.inject(frame);
    driver.poll();
    return { sent: port.sent.length - before.sent, received: driver.received.length - before.received };
  };
  expect(passes()).toEqual({ sent: 1, received: 1 });
  setPort(adminState.down);
  expect(carrier()).toBe(0);
  expect(passes()).toEqual({ sent: 0, received: 0 });
  expect(device.core.counters.events).toMatchObject({ txDiscards: 1, rxDiscards: 1 });
  setPort(adminState.up);
  expect(carrier()).toBe(1);
  expect(passes()).toEqual({ sent: 1, received: 1 });
});
