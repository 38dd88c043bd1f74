import { expect, it } from 'vitest';
import { FrameInfo, parseFrame } from '../../../device-models/mlx5/frame/parse.ts';
import { cqeRss } from '../../../device-models/mlx5/prm/index.ts';
import {
  hashField,
  hashFunction,
  RssResult,
  rssHash,
  Tir,
} from '../../../device-models/mlx5/steering/tir.ts';
import { rssKey } from './driver.ts';
import { buildFrame } from './frames.ts';

const settings = {
  dispType: 1,
  inlineRqn: 0,
  indirectTable: 1,
  rxHashFn: hashFunction.TOEPLITZ,
  symmetric: false,
  key: rssKey,
  ipv6: false,
  udp: false,
  selectedFields: hashField.SRC_IP | hashField.DST_IP | hashField.L4_SPORT | hashField.L4_DPORT,
  selfLoopback: 0,
  transportDomain: 1,
};

function resultOf(tir: Tir, frame: Buffer): { hash: number; type: number } {
  const info = new FrameInfo();
  const result = new RssResult();
  parseFrame(frame, frame.length, info);
  rssHash(tir, frame, info, result);
  return { hash: result.hash, type: result.type };
}

// "Verifying the RSS hash calculation", Microsoft: the hash does not say which transport the ports are of.
const flow = { srcIp: [66, 9, 149, 187], dstIp: [161, 142, 100, 80], sport: 2794, dport: 1766 };
const addresses = 0x323e8fc2;
const withPorts = 0x51ccc178;

it.each([
  ['tcp', 'udp'],
  ['udp', 'tcp'],
] as const)('takes ports of %s, and addresses alone of %s, where the former is asked for', (asked, other) => {
  const tir = new Tir(1, { ...settings, udp: asked === 'udp' });
  const type = cqeRss.ip.ipv4 | cqeRss.l4[asked];
  expect(resultOf(tir, buildFrame({ ...flow, protocol: asked }))).toEqual({ hash: withPorts, type });
  const without = { hash: addresses, type: cqeRss.ip.ipv4 };
  expect(resultOf(tir, buildFrame({ ...flow, protocol: other }))).toEqual(without);
});

it('hashes with the key that its driver has set last', () => {
  const frame = buildFrame({ ...flow, protocol: 'tcp' });
  const key = Uint8Array.from(rssKey).reverse();
  const tir = new Tir(1, settings);
  expect(resultOf(tir, frame).hash).toBe(withPorts);
  tir.change({ ...settings, key });
  const { hash } = resultOf(tir, frame);
  expect(hash).not.toBe(withPorts);
  expect(hash).toBe(resultOf(new Tir(2, { ...settings, key }), frame).hash);
});
