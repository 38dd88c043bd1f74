/** The vfio-user server: sockets, sessions, dispatch. What it serves is a `ServedDevice`. */
export { NativeServer, type NativeServerOptions } from './server.ts';
