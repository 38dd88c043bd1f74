import { DeviceObject } from './objects.ts';

/** What CREATE_TIS says. */
export interface TisSettings {
  readonly prio: number;
  readonly transportDomain: number;
  readonly pd: number;
}

/** Transport interface send: where an SQ's frames leave. */
export class Tis extends DeviceObject {
  settings: TisSettings;

  constructor(id: number, settings: TisSettings) {
    super(id);
    this.settings = settings;
  }

  change(settings: TisSettings): void {
    this.settings = settings;
    this.touch();
  }
}
