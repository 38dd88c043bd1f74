import { createServer, type Server, type Socket } from 'node:net';

export type Answer = object | undefined;
/** Answers a command: an object with `return`, `error`; undefined stays silent. */
export type Script = (command: string, args: Record<string, unknown>) => Answer;

export interface FakeQmpOptions {
  /** Bytes of each write; default: all. */
  readonly chunk?: number;
  readonly greeting?: string;
  /** Answers nothing at all. */
  readonly silent?: boolean;
}

/** A QMP server on a UNIX socket whose answers a test writes. Chunks are cut as the test wants. */
export class FakeQmpServer {
  readonly path: string;
  readonly commands: string[] = [];
  /** What has come of a request that is not whole yet. */
  unfinished = '';
  /** Capabilities that the last client asked for. */
  enabled: unknown;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  readonly #script: Script;
  readonly #chunk: number;
  #silent = false;
  /** What waits for the main loop; undefined: it takes what comes. */
  #waiting: (() => void)[] | undefined;
  #holdsAll = false;
  #turnedAway = false;

  private constructor(path: string, script: Script, chunk: number, greeting: string) {
    this.path = path;
    this.#script = script;
    this.#chunk = chunk;
    this.#server = createServer((client) => this.#serve(client, greeting));
  }

  static async start(path: string, script: Script, options: FakeQmpOptions = {}): Promise<FakeQmpServer> {
    const greeting =
      options.greeting ??
      '{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": "fake"}, "capabilities": ["oob"]}}\r\n';
    const fake = new FakeQmpServer(path, script, options.chunk ?? Number.MAX_SAFE_INTEGER, greeting);
    fake.#silent = options.silent === true;
    await new Promise<void>((resolve) => fake.#server.listen(path, resolve));
    return fake;
  }

  /** How many are connected. */
  get clients(): number {
    return this.#clients.size;
  }

  /** Sends raw text to every client. */
  send(text: string): void {
    for (const client of this.#clients) this.#write(client, text);
  }

  event(name: string, data: object = {}, seconds = 1, microseconds = 0): void {
    this.send(`${JSON.stringify({ timestamp: { seconds, microseconds }, event: name, data })}\r\n`);
  }

  /**
   * As a QEMU whose main loop can't be had: nothing is carried out but what comes out of band.
   * @param all that neither, as of a QEMU that is stopped
   */
  hold(all = false): void {
    this.#waiting ??= [];
    this.#holdsAll = all;
  }

  release(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    for (const work of waiting) work();
  }

  dropClients(): void {
    for (const client of this.#clients) client.destroy();
  }

  /** Closes every connection, and each new one before its greeting, as a proxy does that can't reach its QEMU any more. */
  turnAway(): void {
    this.#turnedAway = true;
    this.dropClients();
  }

  async stop(): Promise<void> {
    this.dropClients();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #write(client: Socket, text: string): void {
    for (let at = 0; at < text.length; at += this.#chunk) client.write(text.slice(at, at + this.#chunk));
  }

  #serve(client: Socket, greeting: string): void {
    if (this.#turnedAway) {
      client.destroy();
      return;
    }
    this.#clients.add(client);
    client.on('error', () => undefined);
    client.on('close', () => this.#clients.delete(client));
    this.#write(client, greeting);
    // Requests come without line ends: split where braces balance.
    let text = '';
    client.on('data', (bytes) => {
      text += bytes.toString();
      let depth = 0;
      let start = 0;
      for (let at = 0; at < text.length; at++) {
        if (text[at] === '{') depth += 1;
        if (text[at] !== '}') continue;
        depth -= 1;
        if (depth > 0) continue;
        this.#answer(client, text.slice(start, at + 1));
        start = at + 1;
      }
      text = text.slice(start);
      this.unfinished = text;
    });
  }

  #answer(client: Socket, request: string): void {
    const {
      execute,
      'exec-oob': outOfBand,
      arguments: args,
      id,
      ...unexpected
    } = JSON.parse(request) as {
      execute?: string;
      'exec-oob'?: string;
      arguments?: Record<string, unknown>;
      id?: string;
    };
    const [member] = Object.keys(unexpected);
    const refused =
      member === undefined
        ? undefined
        : { error: { class: 'GenericError', desc: `QMP input member '${member}' is unexpected` } };
    const command = outOfBand ?? execute ?? '';
    if (refused === undefined) this.commands.push(command);
    if (this.#silent) return;
    if (command === 'qmp_capabilities') this.enabled = args?.enable;
    const carryOut = (): void => {
      const standard =
        command === 'qmp_capabilities' || command === 'query-version' ? { return: {} } : undefined;
      const answer = refused ?? standard ?? this.#script(command, args ?? {});
      if (answer !== undefined) this.#write(client, `${JSON.stringify({ ...answer, id })}\r\n`);
    };
    const waits = outOfBand === undefined || this.#holdsAll;
    if (waits && this.#waiting !== undefined) this.#waiting.push(carryOut);
    else carryOut();
  }
}
