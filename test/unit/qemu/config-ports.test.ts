import { describe, expect, it } from 'vitest';
import { ConfigPorts } from '../../../src/qemu/config-ports.ts';
import { configAddressValue, ecamOffset, formatAddress } from '../../../src/qemu/pci-address.ts';

/** A monitor before a chip set: port 0xCF8 and one function's configuration space. */
class PortMonitor {
  cf8 = 0x8000_0094;
  readonly config = Buffer.alloc(256);
  readonly lines: string[] = [];

  async hmp(line: string): Promise<string> {
    this.lines.push(line);
    const [command = '', size = '', port = '', value = ''] = line.split(' ');
    const bytes = { '/b': 1, '/h': 2, '/w': 4 }[size] ?? 0;
    const at = (this.cf8 & 0xfc) + (Number(port) & 3);
    if (command === 'i') {
      const read = port === '0xcf8' ? this.cf8 : this.config.readUIntLE(at, bytes);
      return `port[0x0cfc] = 0x${read.toString(16)}\r\n`;
    }
    if (port === '0xcf8') this.cf8 = Number(value);
    else this.config.writeUIntLE(Number(value), at, bytes);
    return '';
  }
}

const at = { bus: 1, device: 4, function: 2 };

describe('ConfigPorts', () => {
  it('writes and reads registers of every size, and leaves 0xCF8 as the guest had it', async () => {
    const monitor = new PortMonitor();
    const ports = new ConfigPorts(monitor);
    await ports.save();
    await ports.write(at, 0x04, 2, 0x406);
    await ports.write(at, 0x3d, 1, 0x7f);
    await ports.write(at, 0x10, 4, 0xfe00_000c);
    expect(await ports.read(at, 0x04, 2)).toBe(0x406);
    expect(await ports.read(at, 0x3d, 1)).toBe(0x7f);
    expect(await ports.read(at, 0x10, 4)).toBe(0xfe00_000c);
    expect(monitor.cf8).toBe(0x8001_2210);
    await ports.restore();
    expect(monitor.cf8).toBe(0x8000_0094);
    expect(monitor.lines).toContain('o /b 0xcfd 0x7f');
  });

  it('remembers only the first value, and says what the monitor said', async () => {
    const monitor = new PortMonitor();
    const ports = new ConfigPorts(monitor);
    await ports.save();
    monitor.cf8 = 1;
    expect(await ports.save()).toBe(0x8000_0094);
    await expect(new ConfigPorts({ hmp: async () => 'unknown command' }).save()).rejects.toThrow(
      /unknown command/,
    );
  });
});

describe('addresses', () => {
  it('follow the specifications', () => {
    expect(configAddressValue(at, 0x3d)).toBe(0x8001_223c);
    expect(ecamOffset(at)).toBe(0x0010_0000 + 0x2_0000 + 0x2000);
    expect(formatAddress(at)).toBe('01:04.2');
    expect(() => configAddressValue(at, 0x100)).toThrow(/out of reach/);
  });
});
