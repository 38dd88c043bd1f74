import { afterEach, describe, expect, it } from 'vitest';
import { closeFd, eventfdCreate, eventfdDrain, eventfdSignal, memfdCreate } from '../../src/posix/index.ts';
import { pciIrq } from '../../src/vfio-user/constants.ts';
import { FakeDevice } from './fake-device.ts';
import { type RunningServer, regionsOf, serversUnderTest } from './harness.ts';

describe.each(serversUnderTest)('$name server, requests of a well-behaved client', (under) => {
  let server: RunningServer;
  const start = (device: FakeDevice) => {
    server = under.serve(device);
    return server.connect();
  };
  afterEach(() => server.close());

  it('negotiates and describes the device', () => {
    const client = start(new FakeDevice());
    expect(client.server.maxDataXferSize).toBe(1024 * 1024);
    expect(client.getInfo()).toEqual({ flags: 3, regions: regionsOf(under), irqs: pciIrq.count });
    expect(client.getRegionInfo(0)).toMatchObject({ size: 4096, flags: 3, fd: undefined });
    expect(client.getRegionInfo(2)).toMatchObject({ size: 0, flags: 0 });
    expect(client.getIrqInfo(pciIrq.msix)).toEqual({ flags: 1, count: 8 });
  });

  it('hands out the descriptor and the areas of a mappable region', () => {
    const device = new FakeDevice();
    const fd = memfdCreate('bar1', 64 * 1024);
    device.mmap = {
      fd,
      fdOffset: 4096,
      areas: [
        { offset: 0, size: 4096 },
        { offset: 8192, size: 4096 },
      ],
    };
    const info = start(device).getRegionInfo(1);
    // One descriptor for each area is what the 2022 library sends, and one is what QEMU takes: so it offers one area.
    const areas = under.generation === 'v1' ? device.mmap.areas.slice(0, 1) : device.mmap.areas;
    expect(info).toMatchObject({ flags: 15, offset: 4096, argsz: 48 + 16 * areas.length, areas });
    expect(info.fd).not.toBeUndefined();
    if (info.fd !== undefined) closeFd(info.fd);
    closeFd(fd);
  });

  it('reads and writes regions, posted and not', () => {
    const device = new FakeDevice();
    const client = start(device);
    client.writeRegister(0, 16, 0x12345678);
    expect(client.readRegister(0, 16)).toBe(0x12345678);
    client.regionWritePosted(0, 20, Buffer.from([1, 2, 3]));
    expect([...client.regionRead(0, 19, 5)]).toEqual([0x12, 1, 2, 3, 0]);
    const large = Buffer.alloc(64 * 1024, 7);
    client.regionWrite(1, 0, large);
    expect(client.regionRead(1, 0, large.length).equals(large)).toBe(true);
    const several = [
      { region: 0, offset: 0, data: Buffer.from([9]) },
      { region: 0, offset: 1, data: Buffer.from([8, 7, 6, 5, 4, 3, 2, 1]) },
    ];
    // The library does not have it, and does not announce it.
    if (under.kind === 'libvfio-user') {
      expect(client.server.writeMultiple).toBe(false);
      return;
    }
    client.regionWriteMulti(several);
    expect([...client.regionRead(0, 0, 9)]).toEqual([9, 8, 7, 6, 5, 4, 3, 2, 1]);
  });

  it('passes eventfds, booleans and their absence on', () => {
    const device = new FakeDevice();
    const client = start(device);
    const eventfds = [eventfdCreate(), eventfdCreate()];
    client.setIrqs({ index: pciIrq.msix, start: 2, count: 2, action: 'trigger', eventfds });
    const [set] = device.irqSets;
    expect(set).toMatchObject({ index: 2, start: 2, count: 2, action: 'trigger', data: { type: 'eventfd' } });
    if (set?.data.type !== 'eventfd' || set.data.fds[1] === undefined) throw new Error('no descriptor');
    eventfdSignal(set.data.fds[1]);
    expect(eventfds.map(eventfdDrain)).toEqual([false, true]);
    client.setIrqs({ index: pciIrq.msix, start: 1, count: 3, action: 'trigger', eventfds: [] });
    expect(device.irqSets[1]?.data).toEqual({ type: 'eventfd', fds: [undefined, undefined, undefined] });
    client.setIrqs({ index: pciIrq.msi, count: 2, action: 'mask', bools: [true, false] });
    expect(device.irqSets[2]).toMatchObject({
      action: 'mask',
      data: { type: 'bool', values: [true, false] },
    });
    client.setIrqs({ index: pciIrq.intx, count: 0, action: 'trigger' });
    expect(device.irqSets[3]).toMatchObject({ count: 0, data: { type: 'none' } });
    for (const fd of eventfds) closeFd(fd);
  });

  it('maps and unmaps memory, with and without a descriptor', () => {
    const device = new FakeDevice();
    const client = start(device);
    const fd = memfdCreate('ram', 8192);
    client.dmaMap({ iova: 0x1000, size: 8192, prot: 3, fd, fdOffset: 4096 });
    client.dmaMap({ iova: 2 ** 40, size: 4096, prot: 1 });
    expect(device.maps.get(0x1000)).toMatchObject({ size: 8192, prot: 3, fdOffset: 4096 });
    expect(device.maps.get(0x1000)?.fd).not.toBeUndefined();
    expect(device.maps.get(2 ** 40)?.fd).toBeUndefined();
    client.dmaUnmap(0x1000, 8192);
    expect(device.maps.size).toBe(1);
    client.dmaUnmapAll();
    expect(device.maps.size).toBe(0);
    closeFd(fd);
  });

  it('resets', () => {
    const device = new FakeDevice();
    start(device).reset();
    expect(device.calls).toEqual(['attach', 'reset']);
  });

  it('moves data by DMA messages in both directions', () => {
    const device = new FakeDevice();
    const client = start(device);
    const bytes = Buffer.alloc(3 * 1024 * 1024);
    client.dmaMap({ iova: 0x10000, size: bytes.length, prot: 3, bytes });
    const data = Buffer.from(Uint8Array.from({ length: bytes.length - 5 }, (_, i) => (i * 7) >> 3));
    device.link?.dma.write(0x10005, data);
    expect(bytes.subarray(5).equals(data)).toBe(true);
    const back = Buffer.alloc(data.length);
    device.link?.dma.read(0x10005, back);
    expect(back.equals(data)).toBe(true);
  });
});
