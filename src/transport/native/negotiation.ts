import { errno, RequestError } from '../../errors.ts';
import { type Capabilities, parseCapabilities } from '../../vfio-user/capabilities.ts';
import { command, protocolVersion } from '../../vfio-user/constants.ts';
import { commandName, decodePart, messages } from '../../vfio-user/messages.ts';
import { version } from '../../vfio-user/structs.ts';

/** What a client has announced. */
export interface Announcement {
  /** The lower of the two minor versions. */
  readonly minor: number;
  readonly capabilities: Capabilities;
}

/**
 * Takes a client's first message, which must be VERSION.
 *
 * @param payload what follows the header
 * @param fds number of descriptors that came with it
 * @throws RequestError EINVAL for anything else, another major version, or capabilities that make no sense
 */
export function readAnnouncement(cmd: number, payload: Buffer, fds: number): Announcement {
  if (cmd !== command.VERSION) throw new RequestError(errno.EINVAL, `${commandName(cmd)} before VERSION`);
  if (fds > 0) throw new RequestError(errno.EINVAL, `VERSION: ${fds} unexpected descriptors`);
  const value = decodePart('VERSION', messages.VERSION.request, payload, 0, payload.length);
  if (value.major !== protocolVersion.major) {
    throw new RequestError(errno.EINVAL, `VERSION: major version ${value.major} is not supported`);
  }
  return {
    minor: Math.min(value.minor, protocolVersion.minor),
    capabilities: parseCapabilities(payload.subarray(version.size)),
  };
}
