/**
 * Testbeds of the tests here. When a test fails, what their processes last said becomes part of its failure: the logs go with
 * the testbed, and whoever reads a CI's output has nothing else.
 */
import { beforeEach } from 'vitest';
import { Testbed, type TestbedOptions } from '../../src/qemu/index.ts';

const open = new Set<Testbed>();
/** Of those that were closed since the test began. */
const ended: string[] = [];

/** As `Testbed.start`. */
export async function startTestbed(options: TestbedOptions): Promise<Testbed> {
  const bed = await Testbed.start(options);
  const close = bed.close.bind(bed);
  bed.close = async () => {
    if (open.delete(bed)) ended.push(bed.story());
    await close();
  };
  open.add(bed);
  return bed;
}

beforeEach(({ onTestFailed }) => {
  ended.length = 0;
  onTestFailed(() => {
    const stories = [...ended, ...[...open].map((bed) => bed.story())].filter((story) => story !== '');
    if (stories.length === 0) return;
    const error = new Error(`when the test failed there were\n${stories.join('\n')}`);
    // Where this was thrown tells nothing.
    error.stack = error.message;
    throw error;
  });
});
