import type { Reporter, TestCase, TestModule, Vitest } from 'vitest/node';

/** What is said of tests that were skipped: one line for those of a suite, with the reason as far as names and notes have it. */
export function skippedLines(tests: readonly { suite: string; name: string; note: string }[]): string[] {
  const groups = new Map<string, string[]>();
  for (const { suite, name, note } of tests) {
    const key = note === '' ? suite : `${suite} [${note}]`;
    groups.set(key, [...(groups.get(key) ?? []), name]);
  }
  return [...groups].map(([key, names]) =>
    names.length === 1 ? `${key} > ${names[0]}` : `${key}: ${names.length} tests`,
  );
}

function described(test: TestCase): { suite: string; name: string; note: string } {
  const { parent, module } = test;
  const suite =
    parent.type === 'suite' ? `${module.relativeModuleId} > ${parent.fullName}` : module.relativeModuleId;
  const result = test.result();
  return { suite, name: test.name, note: result.state === 'skipped' ? (result.note ?? '') : '' };
}

/** Says at the end which tests were skipped, and why: what this machine lacks must not look like success. */
export default class Skips implements Reporter {
  #chosen = false;

  onInit(vitest: Vitest): void {
    // Whoever picks tests by name knows that the others are not run.
    this.#chosen = vitest.config.testNamePattern !== undefined;
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    if (this.#chosen) return;
    const tests = modules.flatMap((module) => [...module.children.allTests('skipped')]);
    const lines = skippedLines(tests.map(described));
    if (lines.length > 0) process.stdout.write(`\nSkipped:\n${lines.map((line) => `  ${line}\n`).join('')}`);
  }
}
