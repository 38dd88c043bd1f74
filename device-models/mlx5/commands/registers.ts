import type { Mlx5Core } from '../core.ts';
import { maxHardMtu } from '../limits.ts';
import { writeCounterGroup } from '../port-counters.ts';
import {
  accessRegisterIn,
  accessRegisterOut,
  mciaReg,
  paosReg,
  pfccReg,
  pmtuReg,
  ppcntReg,
  ptysReg,
} from '../prm/index.ts';
import { require } from '../refusal.ts';
import { portStatus } from '../vport.ts';
import { command, opMod } from './command.ts';
import { mcam, mcqi, mcqs } from './firmware-registers.ts';
import { type Register, readOnly } from './register.ts';

/** `op_mod` of ACCESS_REG. */
const access = { WRITE: 0, READ: 1 } as const;
const ethernetProtocol = 4;
/** `eth_proto_*`: 25GBASE-CR, which drivers show as 25000Mb/s. */
const speed25G = 0x10000000;
const minHardMtu = 68;
/** `mcia_reg.status`: there is no module. */
const moduleNotConnected = 3;

/** A register of hardware that a virtual function has not: reads as 0, writes change nothing. */
function absent(size: number): Register {
  return { size, read: (_core, data) => void data.fill(0), write: () => {} };
}

/** Admin and operational port state. */
const paos: Register = {
  size: paosReg.size,
  read(core, data) {
    data.fill(0);
    paosReg.set(data, 'local_port', 1);
    paosReg.set(data, 'admin_status', core.vport.portAdmin);
    const up = core.vport.portAdmin === portStatus.UP && core.carrier();
    paosReg.set(data, 'oper_status', up ? portStatus.UP : portStatus.DOWN);
  },
  write(core, data) {
    const admin = paosReg.get(data, 'admin_status');
    require(admin === portStatus.UP ||
      admin === portStatus.DOWN, 'badRegisterValue', `admin_status ${admin}`);
    core.vport.portAdmin = admin;
    if (admin === portStatus.DOWN) core.vport.known = false;
  },
};

/** Longest frame of the port, with FCS. */
const pmtu: Register = {
  size: pmtuReg.size,
  read(core, data) {
    data.fill(0);
    pmtuReg.set(data, 'local_port', 1);
    pmtuReg.set(data, 'max_mtu', maxHardMtu);
    pmtuReg.set(data, 'admin_mtu', core.vport.hardMtu);
    pmtuReg.set(data, 'oper_mtu', core.vport.hardMtu);
  },
  write(core, data) {
    const mtu = pmtuReg.get(data, 'admin_mtu');
    require(mtu >= minHardMtu && mtu <= maxHardMtu, 'badRegisterValue', `admin_mtu ${mtu}`);
    core.vport.hardMtu = mtu;
  },
};

/** Speeds. There is one. */
const ptys: Register = {
  size: ptysReg.size,
  read(core, data) {
    data.fill(0);
    ptysReg.set(data, 'local_port', 1);
    ptysReg.set(data, 'proto_mask', ethernetProtocol);
    ptysReg.set(data, 'eth_proto_capability', speed25G);
    ptysReg.set(data, 'eth_proto_admin', speed25G);
    ptysReg.set(data, 'eth_proto_oper', core.carrier() ? speed25G : 0);
  },
  write(_core, data) {
    const admin = ptysReg.get(data, 'eth_proto_admin');
    require((admin & ~speed25G) === 0, 'badRegisterValue', `eth_proto_admin 0x${admin.toString(16)}`);
  },
};

/** Flow control: never on. */
const pfcc: Register = {
  size: pfccReg.size,
  read(_core, data) {
    data.fill(0);
    pfccReg.set(data, 'local_port', 1);
  },
  write(_core, data) {
    const wanted = pfccReg.get(data, 'pptx') | pfccReg.get(data, 'pprx');
    require(wanted === 0, 'badRegisterValue', 'a virtual function has no flow control');
  },
};

/** Port counters. */
const ppcnt: Register = {
  size: ppcntReg.size,
  read(core, data) {
    const group = ppcntReg.get(data, 'grp');
    const priority = ppcntReg.get(data, 'prio_tc');
    const at = ppcntReg.byte('counter_set');
    data.fill(0, at);
    const known = writeCounterGroup(core.counters, group, priority, data, at);
    require(known, 'badRegisterValue', `counter group 0x${group.toString(16)}`);
  },
  write: readOnly,
};

/** EEPROM of the port's module: there is none. Zeros alone would be taken for its content. */
const mcia: Register = {
  size: 0x90,
  read(_core, data) {
    data.fill(0);
    mciaReg.set(data, 'status', moduleNotConnected);
  },
  write: readOnly,
};

/** Registers by id (`MLX5_REG_*`). */
const registers: ReadonlyMap<number, Register> = new Map<number, Register>([
  [0x5001, absent(0x14)], // PCAP
  [0x5002, absent(0x40)], // PMLP: no module
  [0x5003, pmtu],
  [0x5004, ptys],
  [0x5006, paos],
  [0x5007, pfcc],
  [0x5008, ppcnt],
  [0x500b, absent(0x40)], // PPTB
  [0x500c, absent(0x68)], // PBMC
  [0x500f, absent(0x10)], // PVLC
  [0x5012, absent(0x10)], // PMAOS
  [0x5018, absent(0x08)], // PPLR
  [0x5023, absent(0x50)], // PPLM
  [0x5041, absent(0x0c)], // PCMR
  [0x6001, absent(0x40)], // NODE_DESC
  [0x7004, absent(0x10)], // HOST_ENDIANNESS
  [0x9014, mcia],
  [0x902b, absent(0x0c)], // MLCR
  [0x9060, mcqs],
  [0x9061, mcqi],
  [0x907f, mcam],
]);

function accessRegister(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const id = accessRegisterIn.get(input, 'register_id');
  const register = registers.get(id);
  require(register !== undefined, 'unknownRegister', `register 0x${id.toString(16)}`);
  const from = accessRegisterIn.byte('register_data');
  const data = Buffer.alloc(register.size);
  input.copy(data, 0, from, Math.min(input.length, from + register.size));
  const mode = opMod(input);
  require(mode <= access.READ, 'unsupportedType', `ACCESS_REG op_mod ${mode}`);
  if (mode === access.READ) register.read(core, data);
  else register.write(core, data);
  data.copy(output, accessRegisterOut.byte('register_data'));
}

/** ACCESS_REG and its registers. */
export const registerCommands = [command('ACCESS_REG', accessRegisterIn, accessRegisterOut, accessRegister)];
