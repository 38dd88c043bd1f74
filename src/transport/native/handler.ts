import { closeFd } from '../../posix/index.ts';
import type { Capabilities, OfferedCapabilities } from '../../vfio-user/capabilities.ts';
import { decodePart, type MessageSpec } from '../../vfio-user/messages.ts';
import type { FieldTable, StructValue } from '../../vfio-user/struct.ts';
import type { ServedDevice } from '../served-device.ts';

/** Which socket a request came in on; see docs of the two sockets in src/transport/native/server.ts. */
export type Role = 'device' | 'migration';

/**
 * Serves one COMPANION request; throws to refuse it. One that takes long and can wait itself calls `sendReplies` first: earlier
 * replies may be waiting to go out together with its own.
 */
export type ServeCompanion = (request: unknown, sendReplies: () => void) => unknown;

/** What a request handler may use. */
export interface HandlerContext {
  readonly device: ServedDevice;
  readonly role: Role;
  readonly offer: OfferedCapabilities;
  readonly peer: Capabilities;
  readonly companion: ServeCompanion | undefined;
  /** Sends replies that are kept back for company. */
  readonly sendReplies: () => void;
  /** A buffer of at least `size` bytes for a reply's data, good until the reply has been sent. */
  scratch(size: number): Buffer;
}

/** A decoded request. `data` is what follows the structure and is good until the handler returns. */
export interface Request<Q extends FieldTable> {
  readonly value: StructValue<Q>;
  readonly data: Buffer;
  /** Become the handler's when it returns; when it throws they are closed for it. */
  readonly fds: readonly number[];
}

/** A successful reply: the structure, what follows it, descriptors to send (which stay the device's). */
export interface Reply<R extends FieldTable = FieldTable> {
  readonly value: StructValue<R>;
  readonly data?: Uint8Array;
  readonly fds?: readonly number[];
}

/** How one command is served. */
export interface Handler {
  readonly spec: MessageSpec;
  readonly roles: readonly Role[];
  /** Served at once even while the device waits for DMA; else queued behind what waits. */
  readonly nested: boolean;
  run(context: HandlerContext, payload: Buffer, fds: readonly number[]): Reply;
}

interface HandlerOptions {
  readonly roles: readonly Role[];
  readonly nested?: boolean;
}

/** Joins a message with the function that serves it; decoding and length checks come from the message. */
export function handler<Q extends FieldTable, R extends FieldTable>(
  spec: MessageSpec<Q, R>,
  options: HandlerOptions,
  serve: (context: HandlerContext, request: Request<Q>) => Reply<R>,
): Handler {
  return {
    spec: spec as unknown as MessageSpec,
    roles: options.roles,
    nested: options.nested ?? false,
    run(context, payload, fds) {
      try {
        const value = decodePart(spec.name, spec.request, payload, 0, payload.length);
        const data = payload.subarray(spec.request.struct.size);
        return serve(context, { value, data, fds }) as unknown as Reply;
      } catch (error) {
        for (const fd of fds) closeFd(fd);
        throw error;
      }
    },
  };
}
