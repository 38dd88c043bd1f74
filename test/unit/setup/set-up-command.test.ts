import { expect, it } from 'vitest';
import { setupCommand } from '../../../src/setup/paths.ts';

it.each([
  ['/home/a/vfio-companion', undefined, 'make setup'],
  ['/home/a/vfio-companion', 'trixie', 'make setup KERNEL=trixie'],
  // There is no compiler for our sources in a project that has the package.
  ['/home/a/project/node_modules/vfio-companion', undefined, 'npx vfio-companion setup'],
  ['/home/a/project/node_modules/vfio-companion', 'trixie', 'npx vfio-companion setup --kernel trixie'],
])('what brings a QEMU where the package is %s (kernel %s): %s', (root, kernel, command) => {
  expect(setupCommand(kernel, root)).toBe(command);
});

it('of this checkout it is that of a checkout', () => {
  expect(setupCommand()).toBe('make setup');
});
