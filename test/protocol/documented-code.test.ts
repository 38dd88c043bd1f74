/** The TypeScript in the documents compiles against the built package, as it does for somebody who has installed it. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkoutRoot } from '../../src/setup/index.ts';
import { compile, makeProject } from './installed-package.ts';

/** Blocks of the guide on devices are the matter of own-model.test.ts. */
const documents = ['README.md', 'docs/migration.md', 'qemu-scripts/README.md'] as const;
/** What a block takes for given. */
const given: Readonly<Record<string, string>> = { 'README.md': "import { expect } from 'vitest';\n" };

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-documented-'));
  makeProject(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const blocksOf = (document: string): string[] =>
  [...readFileSync(join(checkoutRoot(), document), 'utf8').matchAll(/^```ts\n(.*?)^```/gms)].map(
    ([, code = '']) => `${given[document] ?? ''}${code}\nexport {};\n`,
  );

it('the code of the documents compiles, and would not with a mistake in it', async () => {
  const blocks = documents.flatMap(blocksOf);
  expect(blocks).toHaveLength(3);
  const mistaken = blocks[0]?.replace('verify: { ram:', 'verify: { rom:') ?? '';
  const sources = [...blocks, mistaken].map((code, index) => [`block${index}.ts`, code] as const);
  const complaints = await compile(folder, Object.fromEntries(sources));
  expect(complaints.filter((line) => line.includes('error TS'))).toEqual([
    expect.stringMatching(/^block3\.ts.*'rom' does not exist/),
  ]);
});
