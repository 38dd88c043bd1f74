/** The reference C library as a transport: the same `ServedDevice`, served by libvfio-user. */
export { armLastWords } from './last-words.ts';
export { LibvfioUserServer } from './server.ts';
