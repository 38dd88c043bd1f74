/** What a card sends to itself, as the driver's loopback self-test has it do. */
import { expect, it } from 'vitest';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { buildFrame, type FrameSpec } from './frames.ts';
import { type Bench, running } from './setup.ts';

const allChecksumsRight = 7;

/** A running card whose TIRs hear its own frames, at a port that would finish frames and cut them. */
function hearingItself(): Bench {
  const made = running();
  const { driver, port } = made;
  port.offloads = true;
  port.segmentsUdp = true;
  const input = Buffer.alloc(272);
  prm.modifyTirIn.set(input, 'tirn', driver.tirs[10] ?? 0);
  prm.modifyTirBitmask.set(input, 'self_lb_en', 1, prm.modifyTirIn.byte('bitmask'));
  prm.tirc.set(input, 'self_lb_block', 1, prm.modifyTirIn.byte('ctx'));
  driver.command('MODIFY_TIR', input);
  return made;
}

it('finishes the checksum of a frame to itself, which no port will', () => {
  const { driver, port } = hearingItself();
  const spec = { dst: driver.mac, src: driver.mac, payload: Buffer.alloc(300, 5) };
  driver.send(buildFrame({ ...spec, checksums: false }), { l3: true, l4: true });
  driver.poll();
  expect(driver.received.map(({ frame }) => frame)).toEqual([buildFrame(spec)]);
  expect(driver.received[0]?.cqe[0x1c]).toBe(allChecksumsRight);
  expect(port.sent).toEqual([]);
});

it.each([
  ['tcp', 54],
  ['udp', 42],
] as const)('cuts %s to itself, which no port will', (protocol, inline) => {
  const { driver, port } = hearingItself();
  const spec: FrameSpec = { dst: driver.mac, src: driver.mac, protocol };
  const whole = buildFrame({ ...spec, payload: Buffer.alloc(3000, 6), checksums: false });
  driver.send(whole, { l3: true, l4: true, mss: 1400, inline });
  driver.poll();
  expect(driver.received.map(({ frame }) => frame.length - inline)).toEqual([1400, 1400, 200]);
  expect(driver.received.map(({ cqe }) => cqe[0x1c])).toEqual([
    allChecksumsRight,
    allChecksumsRight,
    allChecksumsRight,
  ]);
  expect(port.sent).toEqual([]);
});

it('knows itself by the addresses that the driver uses: its permanent one may be in use elsewhere', () => {
  const { device, driver, port } = hearingItself();
  const changed = Buffer.from('525400aabbcc', 'hex');
  driver.addMac(2, changed);
  device.core.vport.lists = [[changed.readUIntBE(0, 6)], [], []];
  const toChanged = buildFrame({ dst: changed, src: changed });
  const toPermanent = buildFrame({ dst: driver.mac, src: changed });
  driver.send(toChanged);
  driver.send(toPermanent);
  driver.poll();
  expect(driver.received.map(({ frame }) => frame)).toEqual([toChanged]);
  expect(port.sent).toEqual([toPermanent]);
});
