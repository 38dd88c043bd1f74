/** The part of npm `qemu-qmp` 0.5.0 that `qmp-socket.ts` stands on; the package brings no types. */
declare module 'qemu-qmp' {
  import type { Socket } from 'node:net';

  type ConnectCallback = (this: unknown, error: Error | null, qmp?: unknown) => void;

  class QMP extends Socket {
    /** Callbacks of the commands that wait for their reply, oldest first. */
    protected _commands: (((error: Error | null, value: unknown) => void) | undefined)[];
    execute(command: string, callback?: (error: Error | null, value: unknown) => void): void;
    execute(
      command: string,
      args: object | null,
      callback?: (error: Error | null, value: unknown) => void,
    ): void;
  }
  export default QMP;
}
