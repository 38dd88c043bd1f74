import { describe, expect, it } from 'vitest';
import { deviceArgument, vmArguments } from '../../../src/qemu/vm-arguments.ts';

const resolved = {
  accel: 'tcg',
  kernel: '/k',
  initrd: '/i',
  qmpPath: '/f/a,b.qmp',
  migrationQmpPath: '/f/qmp2',
  consolePath: '/f/con,sole',
  agentPath: '/f/agent',
  memoryPath: '/f/ram',
} as const;

describe('vmArguments', () => {
  it('shares guest RAM and gives two monitors', () => {
    const text = vmArguments({}, resolved).join(' ');
    expect(text).toContain('memory-backend-memfd,id=ram,size=256M,share=on');
    expect(text).toContain('-machine q35,memory-backend=ram');
    expect(text.match(/-qmp /g)).toHaveLength(2);
    expect(text).toContain('unix:/f/a,,b.qmp,server=on');
    expect(text).toContain('-chardev file,id=console,path=/f/con,,sole -serial chardev:console -chardev');
  });

  it('keeps guest RAM to itself when told to', () => {
    const text = vmArguments({ memoryBackend: 'private', memoryMiB: 64 }, resolved).join(' ');
    expect(text).toContain('memory-backend-ram,id=ram,size=64M,share=off');
    expect(text).not.toContain('share=on');
  });

  it('puts root ports before the devices that sit on them', () => {
    const args = vmArguments(
      { rootPorts: ['rp0'], devices: [{ id: 'd', socket: '/s', bus: 'rp0' }], incoming: 'defer' },
      resolved,
    );
    const port = args.findIndex((arg) => arg.startsWith('pcie-root-port'));
    const device = args.findIndex((arg) => arg.includes('vfio-user-pci'));
    expect(port).toBeGreaterThan(0);
    expect(device).toBeGreaterThan(port);
    expect(args.slice(args.indexOf('-incoming'))).toEqual(['-incoming', 'defer', '-S']);
  });

  it('describes a device by its structured socket', () => {
    const text = deviceArgument({
      id: 'd',
      socket: '/a,b"c',
      addr: '5',
      properties: { 'x-msg-timeout': 100 },
    });
    expect(JSON.parse(text)).toEqual({
      driver: 'vfio-user-pci',
      id: 'd',
      socket: { type: 'unix', path: '/a,b"c' },
      addr: '5',
      'x-msg-timeout': 100,
    });
  });
});
