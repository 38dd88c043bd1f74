/** Module customisation hooks, which an older Node runs in a thread of their own; see `loadModel`. */
import type { InitializeHook, ResolveHook } from 'node:module';

const own = 'vfio-companion';
let parentURL: string | undefined;

export const initialize: InitializeHook<{ parentURL: string }> = (data) => {
  parentURL = data.parentURL;
};

/** Resolves this package's name as our own modules would, by the `exports` of our package.json. */
export const resolve: ResolveHook = (specifier, context, next) =>
  specifier === own || specifier.startsWith(`${own}/`)
    ? next(specifier, { ...context, parentURL })
    : next(specifier, context);
