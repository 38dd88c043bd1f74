import type { HostPort, OffloadedHandler, PortStats, ReceiveOffloads } from './port.ts';
import type { FrameOffload } from './types.ts';

/** A port around another: what is not about frames goes through to that one, which is closed with it. */
export abstract class WrappedPort implements HostPort {
  protected readonly port: HostPort;

  constructor(port: HostPort) {
    this.port = port;
  }

  get kind(): HostPort['kind'] {
    return this.port.kind;
  }

  get offloads(): boolean {
    return this.port.offloads;
  }

  get segmentsUdp(): boolean {
    return this.port.segmentsUdp === true;
  }

  get linkUp(): boolean {
    return this.port.linkUp;
  }

  get stats(): Readonly<PortStats> {
    return this.port.stats;
  }

  abstract send(parts: readonly Uint8Array[], length: number, offload?: FrameOffload): boolean;
  abstract receive(handler: (frame: Uint8Array) => boolean): void;
  abstract receiveOffloaded(handler: OffloadedHandler, accepts: ReceiveOffloads): void;

  ready(): void {
    this.port.ready();
  }

  onLink(handler: (up: boolean) => void): void {
    this.port.onLink(handler);
  }

  setLink(up: boolean): void {
    this.port.setLink(up);
  }

  park(): boolean {
    return this.port.park();
  }

  drain(timeoutMs: number): void {
    this.port.drain(timeoutMs);
  }

  standby(): void {
    this.port.standby();
  }

  activate(): void {
    this.port.activate();
  }

  announce(mac: Uint8Array, vlan?: number): void {
    this.port.announce(mac, vlan);
  }

  close(): void {
    this.port.close();
  }
}
