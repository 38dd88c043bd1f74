import { describe, expect, test } from 'vitest';
import { NetError, NetSpecError } from '../../../src/net/errors.ts';
import { formatMac, parseMac, rarpFrame } from '../../../src/net/ethernet.ts';
import { parsePortSpec } from '../../../src/net/spec.ts';

describe('port specification', () => {
  test.each([
    ['none', { kind: 'none' }],
    ['switch:/run/sw', { kind: 'switch', path: '/run/sw' }],
    ['switch:/run/sw,id=nic0,name=vm', { kind: 'switch', path: '/run/sw', identity: 'nic0', name: 'vm' }],
    ['switch:/a,,b/sw,id=x,,y', { kind: 'switch', path: '/a,b/sw', identity: 'x,y' }],
    ['stream:unix:/run/s', { kind: 'stream', address: { type: 'unix', path: '/run/s' }, server: false }],
    [
      'stream:host:99,server',
      { kind: 'stream', address: { type: 'tcp', host: 'host', port: 99 }, server: true },
    ],
    [
      'stream:[::1]:99,reconnect=0',
      { kind: 'stream', address: { type: 'tcp', host: '::1', port: 99 }, server: false, reconnectMs: 0 },
    ],
    ['tap:tap0', { kind: 'tap', name: 'tap0' }],
    ['tap:tap0,vlan=5', { kind: 'tap', name: 'tap0', vlan: 5 }],
    ['tap:tap0@/proc/1/ns/net', { kind: 'tap', name: 'tap0', namespace: '/proc/1/ns/net' }],
  ])('%s', (text, expected) => expect(parsePortSpec(text)).toEqual(expected));

  test.each([
    '',
    'none:x',
    'switch',
    'switch:',
    'switch:/x,colour=red',
    'switch:/x,id=',
    `switch:/x,id=${'x'.repeat(129)}`,
    `switch:/x,name=${'x'.repeat(129)}`,
    'stream:',
    'stream:host',
    'stream:host:0',
    'stream:host:70000',
    'stream:unix:',
    'stream:host:1,reconnect=soon',
    'tap:',
    'tap:tap0@',
    'tap:tap0,vlan=0',
    'tap:tap0,vlan=4095',
    'tap:tap0,vlan=x',
    'bridge:br0',
  ])('refuses %j and tells the forms', (text) => {
    expect(() => parsePortSpec(text)).toThrow(NetSpecError);
    try {
      parsePortSpec(text);
    } catch (error) {
      expect((error as NetSpecError).hint).toContain('tap:NAME[@NETNS]');
    }
  });
});

describe('ethernet', () => {
  test('MAC addresses', () => {
    expect(formatMac(parseMac('52:54:00:Ab:cd:EF'))).toBe('52:54:00:ab:cd:ef');
    for (const wrong of [
      '',
      '52:54:00:12:34',
      '52:54:00:12:34:5g',
      '52:54:00-12:34:56',
      '52:54:00:12:34:56:78',
    ])
      expect(() => parseMac(wrong)).toThrow(NetError);
  });

  test('announcement is the RARP request that QEMU sends', () => {
    // As net/announce.c lays it out: broadcast, RARP, Ethernet/IPv4, operation 3, our MAC twice, no IP.
    const mac = '525400123456';
    const head = `ffffffffffff${mac}80350001080006040003${mac}00000000${mac}00000000`;
    expect(rarpFrame(parseMac('52:54:00:12:34:56')).toString('hex')).toBe(head.padEnd(120, '0'));
  });
});
