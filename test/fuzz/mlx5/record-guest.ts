/**
 * Records the session of a real guest. Loaded before a server of the mlx5 model, which knows nothing of it:
 *
 *   NODE_OPTIONS=--import=$PWD/dist/test/fuzz/mlx5/record-guest.js MLX5_RECORD=FILE [MLX5_RECORD_STEPS=N] …
 *
 * FILE.PID is written when the server with that process id ends; beside the others in test/fuzz/recordings it is played by `make fuzz`.
 */
import { writeFileSync } from 'node:fs';
import { Bar0 } from '../../../device-models/mlx5/init-segment.ts';
import { ReceivePath } from '../../../device-models/mlx5/receive.ts';
import { GuestMemoryMap } from '../../../src/dma/index.ts';
import { packRecording, Recorder } from './recording.ts';

const file = process.env.MLX5_RECORD ?? '';
const limit = Number(process.env.MLX5_RECORD_STEPS ?? 20_000);
const recorder = new Recorder(() => Number(process.hrtime.bigint()));
const full = () => recorder.steps.length >= limit;

const memory = GuestMemoryMap.prototype;
const { read, view, readUint32BE } = memory;
memory.read = function (iova, target) {
  read.call(this, iova, target);
  if (!full()) recorder.note(iova, target);
};
memory.view = function (iova, length) {
  const bytes = view.call(this, iova, length);
  if (bytes !== undefined && !full()) recorder.note(iova, bytes);
  return bytes;
};
memory.readUint32BE = function (iova) {
  const value = readUint32BE.call(this, iova);
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  if (!full()) recorder.note(iova, bytes);
  return value;
};

const { write } = Bar0.prototype;
Bar0.prototype.write = function (offset, count, source, at) {
  if (full()) {
    write.call(this, offset, count, source, at);
    return;
  }
  const bytes = Uint8Array.from(source.subarray(at, at + count));
  recorder.during({ write: { offset, bytes } }, () => write.call(this, offset, count, source, at));
};

const { receive } = ReceivePath.prototype;
ReceivePath.prototype.receive = function (frame) {
  if (full()) return receive.call(this, frame);
  return recorder.during({ frame: Uint8Array.from(frame) }, () => receive.call(this, frame));
};

process.on('exit', () => {
  if (file === '' || recorder.steps.length === 0) return;
  const packed = packRecording({ vectors: 9, mac: '52:54:00:00:01:00', steps: recorder.steps });
  writeFileSync(`${file}.${process.pid}`, packed);
});
