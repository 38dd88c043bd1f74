import { reasonOf, StateRefused } from '../errors.ts';
import type { StateSource } from './sections.ts';
import { StreamDecoder } from './stream/decoder.ts';
import { frameworkPrefix, limits, type StreamHeader } from './stream/format.ts';
import { checkLoadable, quoted } from './stream/header.ts';

/**
 * One write session (RESUMING): takes the stream in pieces of any size and loads it. The header is
 * compared as soon as it is in. The device's records go to the device as they come, the framework's
 * sections wait for the end; nothing runs before `finish()` has found everything complete. Any error is
 * thrown as `StateRefused` and ends the session; the device is half loaded then and needs a reset.
 */
export class LoadSession {
  readonly #target: StateSource;
  readonly #decoder: StreamDecoder;
  readonly #values = new Map<string, unknown>();
  #valueBytes = 0;
  #header: StreamHeader | undefined;

  constructor(target: StateSource) {
    this.#target = target;
    this.#decoder = new StreamDecoder({
      header: (header) => this.#begin(header),
      value: (section, value, size) => this.#value(section, value, size),
      bulk: (section, offset, bytes) => this.#bulk(section, offset, bytes),
      restart: () => this.#restart(),
    });
  }

  write(source: Uint8Array): void {
    this.#decoder.write(source);
  }

  /** RESUMING → STOP: the device becomes what was loaded, if that is complete. */
  finish(): void {
    const { device, framework, model } = this.#target;
    if (!this.#decoder.complete || this.#header === undefined) {
      const { chunks, bytes } = this.#decoder.progress;
      throw new StateRefused(`the state is not complete: it stops after ${chunks} chunks (${bytes} bytes)`, {
        hint: 'Write the whole stream before leaving RESUMING; to give up loading, reset the device.',
      });
    }
    const version = this.#header.frameworkVersion;
    for (const section of framework) {
      if (!this.#values.has(section.section))
        throw new StateRefused(`the state has no section "${section.section}"`);
      this.#checked(section.section, () => section.load(this.#values.get(section.section), version));
    }
    this.#checked(model.name, () => device?.endLoad());
  }

  #begin(header: StreamHeader): void {
    const { model, device, frameworkVersion } = this.#target;
    checkLoadable(header, {
      model: model.name,
      stateVersion: model.stateVersion,
      loadsVersions: model.loadsVersions ?? [],
      geometry: device?.geometry ?? {},
      frameworkVersion,
    });
    this.#header = header;
    this.#restart();
  }

  #restart(): void {
    this.#values.clear();
    this.#valueBytes = 0;
    const version = this.#header?.stateVersion ?? this.#target.model.stateVersion;
    this.#checked(this.#target.model.name, () => this.#target.device?.beginLoad(version));
  }

  #value(section: string, value: unknown, size: number): void {
    if (section.startsWith(frameworkPrefix)) this.#keep(section, value, size);
    else this.#checked(section, () => this.#device(section).load({ section, value }));
  }

  #bulk(section: string, offset: number, bytes: Uint8Array): void {
    if (section.startsWith(frameworkPrefix))
      throw new StateRefused(`section ${quoted(section)} can't be bulk`);
    this.#checked(section, () => this.#device(section).load({ section, offset, bytes }));
  }

  #keep(section: string, value: unknown, size: number): void {
    const name = section.slice(frameworkPrefix.length);
    if (!this.#target.framework.some((known) => known.section === name)) {
      throw new StateRefused(`the framework's section ${quoted(name)} is not known here`);
    }
    if (this.#values.has(name)) throw new StateRefused(`the framework's section ${quoted(name)} came twice`);
    this.#valueBytes += size;
    if (this.#valueBytes > limits.frameworkValues)
      throw new StateRefused("the framework's sections are too large");
    this.#values.set(name, value);
  }

  #device(section: string): NonNullable<StateSource['device']> {
    if (this.#target.device !== undefined) return this.#target.device;
    throw new StateRefused(`section ${quoted(section)} belongs to a device that has no state`);
  }

  /** Whatever a loader throws (hostile state makes them stumble) becomes a refusal that names the section. */
  #checked(what: string, load: () => void): void {
    try {
      load();
    } catch (error) {
      if (error instanceof StateRefused) throw error;
      const reason = reasonOf(error);
      throw new StateRefused(`${quoted(what)} can't be loaded: ${reason}`, { cause: error });
    }
  }
}
