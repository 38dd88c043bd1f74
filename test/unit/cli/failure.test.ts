import { openSync } from 'node:fs';
import { expect, it } from 'vitest';
import { failureText } from '../../../src/cli/failure.ts';
import { CompanionError } from '../../../src/errors.ts';
import { thrownBy } from '../../thrown.ts';

it('a failure of ours is a sentence, its code and the way out', () => {
  const error = new CompanionError('VC_X', 'it is so', { hint: 'do this' });
  expect(failureText(error)).toBe('error: it is so [VC_X]\nhint: do this\n');
  expect(failureText(new CompanionError('VC_X', 'it is so'))).toBe('error: it is so [VC_X]\n');
});

it('a failure of the system is a sentence', () => {
  const missing = thrownBy(Error, () => openSync('/none', 'r'));
  expect(failureText(missing)).toBe("error: ENOENT: no such file or directory, open '/none'\n");
});

it('too many open files are told with the way out', () => {
  const error = Object.assign(new Error('EMFILE: too many open files, open'), {
    code: 'EMFILE',
    syscall: 'open',
  });
  expect(failureText(error)).toMatch(/^error: EMFILE: .*\nhint: raise the limit .*ulimit -n \d+\n$/);
});

it('a limit of address space is told with the way out', () => {
  const error = new RangeError('WebAssembly.Memory(): could not allocate memory');
  expect(failureText(error)).toBe(
    `error: ${error.message}\nhint: lift the limit of address space, of which Node reserves much more than it uses: ulimit -v unlimited\n`,
  );
});

it('a mistake of ours shows its stack', () => {
  expect(failureText(new TypeError('x is not a function'))).toMatch(/^error: TypeError: x .*\n {4}at /);
});
