/**
 * Testbeds of the tests here. When a test fails, what their processes last said becomes part of its failure: the logs go with
 * the testbed, and whoever reads a CI's output has nothing else.
 */
import { pino } from 'pino';
import { beforeEach } from 'vitest';
import { Testbed, type TestbedOptions } from '../../src/qemu/index.ts';

/** What the orchestrator has said since the test began: of a migration that failed a test may see no more than a code. */
const said: string[] = [];
const log = pino(
  { level: 'debug', base: {}, timestamp: pino.stdTimeFunctions.isoTime },
  {
    write: (line: string) => {
      const { time, level: _level, ...rest } = JSON.parse(line) as Record<string, unknown>;
      said.push(`${String(time)} ${Object.values(rest).join(' ')}`);
    },
  },
);
/** Of a test that migrates again and again, the last of it; a CI prints some forty lines of each failure. */
const toldLines = 12;

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
  const migrateOptions = bed.migrateOptions.bind(bed);
  bed.migrateOptions = async (destination) => ({ ...(await migrateOptions(destination)), log });
  open.add(bed);
  return bed;
}

beforeEach(({ onTestFailed }) => {
  ended.length = 0;
  said.length = 0;
  onTestFailed(() => {
    const migrations = said.length === 0 ? [] : ['migrations:', ...said.slice(-toldLines)];
    const stories = [...migrations, ...ended, ...[...open].map((bed) => bed.story())].filter(
      (story) => story !== '',
    );
    if (stories.length === 0) return;
    const error = new Error(`when the test failed there were\n${stories.join('\n')}`);
    // Where this was thrown tells nothing.
    error.stack = error.message;
    throw error;
  });
});
