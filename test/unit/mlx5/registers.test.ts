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

describe('the firmware that `devlink dev info` shows: it was 0.0.0000, with a warning', () => {
  const register = { mcqs: 0x9060, mcqi: 0x9061, mcam: 0x907f } as const;
  const data = prm.accessRegisterOut.byte('register_data');
  const information = data + prm.mcqiReg.size;
  const versionInfo = 1;

  function askVersion(fields: Partial<Record<keyof typeof prm.mcqiReg.fields, number>>): Buffer {
    const request = Buffer.alloc(information + prm.mcqiVersion.size);
    const all = { info_type: versionInfo, data_size: prm.mcqiVersion.size, ...fields };
    for (const [name, value] of Object.entries(all))
      prm.mcqiReg.set(request, name as keyof typeof prm.mcqiReg.fields, value, data);
    return running().driver.register(register.mcqi, request, 1);
  }

  it('is offered by a capability, and by MCAM for its own group of registers only', () => {
    const { driver } = running();
    const answer = driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, currentGeneral);
    expect(prm.cmdHcaCap.get(answer, 'mcam_reg', prm.queryHcaCapOut.byte('capability'))).toBe(1);
    for (const [group, there] of [
      [0, 1],
      [1, 0],
      [3, 0],
    ] as const) {
      const request = Buffer.alloc(data + prm.mcamReg.size);
      prm.mcamReg.set(request, 'access_reg_group', group, data);
      const reply = driver.register(register.mcam, request, 1);
      const mask = data + prm.mcamReg.byte('mng_access_reg_cap_mask');
      for (const name of ['mcqs', 'mcqi'] as const)
        expect([group, name, prm.mcamAccessReg.get(reply, name, mask)]).toEqual([group, name, there]);
      // What would have a driver write firmware.
      for (const name of ['mcc', 'mcda'] as const) expect(prm.mcamAccessReg.get(reply, name, mask)).toBe(0);
    }
  });

  it('is one boot image, with no other version waiting', () => {
    const { driver } = running();
    const reply = driver.register(register.mcqs, Buffer.alloc(data + prm.mcqsReg.size), 1);
    const field = (name: keyof typeof prm.mcqsReg.fields) => prm.mcqsReg.get(reply, name, data);
    expect([field('last_index_flag'), field('identifier'), field('component_update_state')]).toEqual([
      1, 1, 0,
    ]);
    const next = Buffer.alloc(data + prm.mcqsReg.size);
    prm.mcqsReg.set(next, 'component_index', 1, data);
    expect(() => driver.register(register.mcqs, next, 1)).toThrow();
  });

  it('has the version of the initialization segment, as it runs and as it is stored', () => {
    const { device } = running();
    const word = Buffer.alloc(4);
    device.bars[0].read(prm.initSegment.byte('health') + prm.healthBuffer.byte('fw_ver'), 4, word, 0);
    for (const pending of [0, 1]) {
      const reply = askVersion({ read_pending_component: pending });
      expect(prm.mcqiVersion.get(reply, 'version', information)).toBe(word.readUInt32BE(0));
      const at = information + prm.mcqiVersion.byte('version_string');
      const length = prm.mcqiVersion.get(reply, 'version_string_length', information);
      expect(reply.toString('latin1', at, at + length)).toBe('16.35.1012');
    }
  });

  it('is told in parts, no more than is asked for and than there is', () => {
    const at = prm.mcqiVersion.byte('version');
    const part = askVersion({ offset: at, data_size: 4 });
    expect(part.readUInt32BE(information)).toBe(0x102303f4);
    expect(part.subarray(information + 4).every((byte) => byte === 0)).toBe(true);
    const beyond = askVersion({ offset: 0xffffffff, data_size: 0xffff });
    expect(beyond.subarray(information).every((byte) => byte === 0)).toBe(true);
  });

  it('has nothing else to tell and is not written', () => {
    expect(() => askVersion({ info_type: 5 })).toThrow();
    expect(() => askVersion({ component_index: 1 })).toThrow();
    const { driver } = running();
    for (const id of Object.values(register))
      expect(() => driver.register(id, Buffer.alloc(0x100), 0)).toThrow();
  });
});
