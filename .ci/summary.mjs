// Prints what failed, shortest form last, so that the end of a log that is cut at the top still tells it; then a line of
// two numbers for `.ci/run`: tests passed, tests failed. A suite that could not be loaded counts as one failure, and so
// does a run without a report.
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';

/** Of each message: a test that has failed may have two, the second with the last words of QEMU and of the servers. */
const LINES_OF_A_MESSAGE = 40;

function report(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

const results = report(process.argv[2]);
const failures = [];
for (const file of results?.testResults ?? []) {
  const name = relative(process.cwd(), file.name);
  const failed = file.assertionResults.filter((test) => test.status === 'failed');
  for (const test of failed) failures.push([`${name} > ${test.fullName}`, test.failureMessages]);
  if (file.status === 'failed' && file.assertionResults.length === 0) failures.push([name, [file.message]]);
}
for (const [name, messages] of failures) {
  console.error(`FAILED ${name}`);
  const lines = messages.flatMap((message) => message.split('\n').slice(0, LINES_OF_A_MESSAGE));
  for (const line of lines) console.error(`       ${line}`);
}
console.log(results?.numPassedTests ?? 0, results === undefined ? 1 : failures.length);
