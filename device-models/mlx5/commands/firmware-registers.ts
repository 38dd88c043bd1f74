/** Registers that tell what firmware there is: a driver asks for it by component (`devlink dev info`). */
import { firmware } from '../init-segment.ts';
import { mcamAccessReg, mcamReg, mcqiCap, mcqiReg, mcqiVersion, mcqsReg } from '../prm/index.ts';
import { badParam, require } from '../refusal.ts';
import { type Register, readOnly } from './register.ts';

/** The one component. */
const bootImage = { index: 0, identifier: 1 } as const;
/** `component_status`: there, and what runs. Its `component_update_state` is idle (0): no update waits for a reset. */
const componentInUse = 2;
/** `access_reg_group` and `feature_group` that have something to say: registers 0x9000 to 0x907f. */
const firstGroup = 0;
/** `info_type` of MCQI. */
const infoType = { CAPABILITIES: 0, VERSION: 1 } as const;

/** Which management registers there are. Groups of which there is none are empty, as newer drivers ask for more of them. */
export const mcam: Register = {
  size: mcamReg.size,
  read(_core, data) {
    const group = mcamReg.get(data, 'access_reg_group');
    data.fill(0, mcamReg.byte('mng_access_reg_cap_mask'));
    if (group !== firstGroup) return;
    const at = mcamReg.byte('mng_access_reg_cap_mask');
    mcamAccessReg.set(data, 'mcqs', 1, at);
    mcamAccessReg.set(data, 'mcqi', 1, at);
  },
  write: readOnly,
};

function requireComponent(index: number): void {
  require(index === bootImage.index, 'badRegisterValue', `firmware component ${index}`);
}

/** Which firmware components there are, and whether one of them is being replaced. */
export const mcqs: Register = {
  size: mcqsReg.size,
  read(_core, data) {
    requireComponent(mcqsReg.get(data, 'component_index'));
    data.fill(0);
    mcqsReg.set(data, 'last_index_flag', 1);
    mcqsReg.set(data, 'component_index', bootImage.index);
    mcqsReg.set(data, 'identifier', bootImage.identifier);
    mcqsReg.set(data, 'component_status', componentInUse);
  },
  write: readOnly,
};

/** Nothing of the component can be read or written: its size is 0. */
function capabilities(): Buffer {
  const info = Buffer.alloc(mcqiCap.size);
  mcqiCap.set(info, 'supported_info_bitmask', (1 << infoType.CAPABILITIES) | (1 << infoType.VERSION));
  return info;
}

/** The version that runs is the one that is stored, too. */
function version(): Buffer {
  const info = Buffer.alloc(mcqiVersion.size);
  const { major, minor, subminor } = firmware;
  const text = `${major}.${minor}.${subminor}`;
  mcqiVersion.set(info, 'version', (major << 24) | (minor << 16) | subminor);
  mcqiVersion.set(info, 'version_string_length', text.length);
  info.write(text, mcqiVersion.byte('version_string'), 'latin1');
  return info;
}

function informationOf(type: number): Buffer {
  switch (type) {
    case infoType.CAPABILITIES:
      return capabilities();
    case infoType.VERSION:
      return version();
    default:
      throw badParam('unsupportedType', `info_type ${type} of a firmware component`);
  }
}

/** What is known of a firmware component: as much as `data_size` says, from `offset` on. */
export const mcqi: Register = {
  size: mcqiReg.size + mcqiVersion.size,
  read(_core, data) {
    requireComponent(mcqiReg.get(data, 'component_index'));
    const information = informationOf(mcqiReg.get(data, 'info_type'));
    const from = mcqiReg.get(data, 'offset');
    data.fill(0, mcqiReg.size);
    mcqiReg.set(data, 'info_size', information.length);
    information.subarray(from, from + mcqiReg.get(data, 'data_size')).copy(data, mcqiReg.size);
  },
  write: readOnly,
};
