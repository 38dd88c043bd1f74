/** What the driver asks of capabilities and registers beside what it needs to probe: for `ethtool` and the like. */
import { describe, expect, it } from 'vitest';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { running } from './setup.ts';

const currentGeneral = 1;
const flowTable = 7;

it('offers all that Linux wants to see before it moderates interrupts: `ethtool -C` failed since 6.10', () => {
  const { driver } = running();
  const answer = driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, currentGeneral);
  const at = prm.queryHcaCapOut.byte('capability');
  for (const name of ['cq_moderation', 'cq_period_mode_modify', 'cq_period_start_from_cqe'] as const)
    expect([name, prm.cmdHcaCap.get(answer, name, at)]).toEqual([name, 1]);
});

it('offers all that Linux wants to see before it makes tables of rules and of single flows: `ethtool -N`, aRFS', () => {
  const { driver } = running();
  const answer = driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, (flowTable << 1) | 1);
  const at =
    prm.queryHcaCapOut.byte('capability') + prm.flowTableNicCap.byte('flow_table_properties_nic_receive');
  for (const name of [
    'flow_modify_en',
    'modify_root',
    'identified_miss_table_mode',
    'flow_table_modify',
  ] as const)
    expect([name, prm.flowTablePropLayout.get(answer, name, at)]).toEqual([name, 1]);
});

describe('the EEPROM of a module that is not there', () => {
  const mcia = 0x9014;
  const bytes = 16 + 0x90;
  const data = prm.accessRegisterOut.byte('register_data');

  it('is not connected, whichever page is asked for: zeros were shown for its content', () => {
    const { driver } = running();
    for (const page of [0, 3]) {
      const request = Buffer.alloc(bytes);
      prm.mciaReg.set(request, 'size', 48, data);
      prm.mciaReg.set(request, 'page_number', page, data);
      prm.mciaReg.set(request, 'i2c_device_address', 0x50, data);
      expect(prm.mciaReg.get(driver.register(mcia, request, 1), 'status', data)).toBe(3);
    }
  });

  it('is not written', () => {
    const { driver } = running();
    expect(() => driver.register(mcia, Buffer.alloc(bytes), 0)).toThrow();
  });
});
