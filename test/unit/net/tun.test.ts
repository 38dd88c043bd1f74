import { describe, expect, test } from 'vitest';
import { errno } from '../../../src/errors.ts';
import { knowsUdpSegmentation, tunOffload } from '../../../src/net/tun.ts';
import { PosixError } from '../../../src/posix/index.ts';

/** TUNSETOFFLOAD of a kernel that knows these bits. */
function kernel(known: number) {
  const accepted: number[] = [];
  const setOffload = (offload: number): void => {
    if ((offload & ~known) !== 0) throw new PosixError('ioctl', errno.EINVAL);
    accepted.push(offload);
  };
  return { accepted, setOffload };
}

describe('segmentation of UDP by a tap', () => {
  const { CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 } = tunOffload;
  const before = CSUM | TSO4 | TSO6 | TSO_ECN;

  test('is known since Linux 6.2; the reader is asked for nothing of the kind afterwards', () => {
    const { accepted, setOffload } = kernel(before | USO4 | USO6);
    expect(knowsUdpSegmentation(setOffload)).toBe(true);
    expect(accepted).toEqual([CSUM | USO4 | USO6, 0]);
  });

  test('is unknown before', () => {
    const { accepted, setOffload } = kernel(before);
    expect(knowsUdpSegmentation(setOffload)).toBe(false);
    expect(accepted).toEqual([0]);
  });

  test('is no question when something else is wrong', () => {
    const fail = (): void => {
      throw new PosixError('ioctl', errno.EBADF);
    };
    expect(() => knowsUdpSegmentation(fail)).toThrow(/EBADF/);
  });
});
