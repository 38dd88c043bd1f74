/** The reference C library as a transport: the same `ServedDevice`, served by libvfio-user. */
export { LibvfioUserError } from './errors.ts';
export { armLastWords } from './last-words.ts';
export { LibvfioUserServer, type LibvfioUserServerOptions, requireLibvfioUser } from './server.ts';
