/**
 * Layout of an x86 kernel image ("bzImage"), from Documentation/arch/x86/boot.rst in the kernel source:
 * where the compressed kernel proper lies in it.
 */

const setupSectors = 0x1f1;
const headerMagic = 0x202;
const payloadOffset = 0x248;
const payloadLength = 0x24c;
const sectorBytes = 512;
/** The build appends the uncompressed size, as 32 bits, to what these compressors write. */
const sizeTrailer = 4;
/** `setup_sects` of 0 means 4. */
const defaultSetupSectors = 4;
const magicText = 'HdrS';

const formats = [
  { name: 'xz', magic: Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]) },
  { name: 'zstd', magic: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]) },
] as const;

export type KernelCompression = (typeof formats)[number]['name'];

/** The compressed kernel inside `image`, or `undefined` if there is none in a format that we know. */
export function compressedKernel(image: Buffer): { format: KernelCompression; data: Buffer } | undefined {
  if (image.length < payloadLength + 4) return undefined;
  if (image.toString('latin1', headerMagic, headerMagic + magicText.length) !== magicText) return undefined;
  const sectors = (image[setupSectors] || defaultSetupSectors) + 1;
  const start = sectors * sectorBytes + image.readUInt32LE(payloadOffset);
  const end = start + image.readUInt32LE(payloadLength) - sizeTrailer;
  if (end > image.length || end <= start) return undefined;
  const data = image.subarray(start, end);
  const format = formats.find(({ magic }) => data.subarray(0, magic.length).equals(magic));
  return format === undefined ? undefined : { format: format.name, data };
}
