import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { damaged, type PackageFile } from '../../../src/setup/apt.ts';
import type { PackageSet } from '../../../src/setup/catalog.ts';
import { sha256Small } from '../../../src/setup/hash.ts';
import { withLock } from '../../../src/setup/lock.ts';
import { type PackageSource, Store, type StoreOptions } from '../../../src/setup/store.ts';
import { faultOf, unpack } from '../../../src/setup/tree.ts';

let root: string;
let mirror: string;
let packages: PackageFile[];
/** What was asked of the mirror, in order. */
let asked: string[];
let online: boolean;

const set: PackageSet = { release: 'bookworm', packages: ['tool'] };

/** Makes a real Debian package with `files` in the mirror. */
function makePackage(name: string, files: Record<string, string>): PackageFile {
  const tree = join(root, 'build', name);
  mkdirSync(join(tree, 'DEBIAN'), { recursive: true });
  chmodSync(join(tree, 'DEBIAN'), 0o755);
  writeFileSync(
    join(tree, 'DEBIAN/control'),
    `Package: ${name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <a@b.example>\nDescription: test\n`,
  );
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(tree, path, '..'), { recursive: true });
    writeFileSync(join(tree, path), text);
  }
  const file = `${name}_1_all.deb`;
  const path = join(mirror, file);
  execFileSync('dpkg-deb', ['-Znone', '--root-owner-group', '--build', tree, path], { stdio: 'ignore' });
  return { name, version: '1', file, size: statSync(path).size, sha256: sha256Small(path) };
}

const source: PackageSource = {
  async resolve() {
    asked.push('resolve');
    if (!online) throw new Error('no network');
    return packages;
  },
  async fetch(files) {
    for (const { file } of await damaged(join(root, 'store/debs'), files)) {
      asked.push(`fetch ${file}`);
      mkdirSync(join(root, 'store/debs'), { recursive: true });
      copyFileSync(join(mirror, file), join(root, 'store/debs', file));
    }
  },
};

function open(options: StoreOptions = {}): Store {
  return new Store(join(root, 'store'), { source: () => source, ...options });
}

async function ensure(store = open(), recipe = 'one'): Promise<string> {
  asked = [];
  const manifest = await store.ensurePackages('thing', set, recipe, async (into, files) => {
    await unpack(store.pool, files, into);
    return { made: recipe };
  });
  return manifest.facts.made ?? '';
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vfio-companion-store-'));
  mirror = join(root, 'mirror');
  mkdirSync(mirror);
  packages = [
    makePackage('tool', { 'usr/bin/tool': 'tool', 'usr/share/doc/tool/README': 'not wanted' }),
    makePackage('old', { 'lib/x86_64-linux-gnu/libold.so': 'from before the merge of / and /usr' }),
  ];
  online = true;
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

describe('Store', () => {
  const tool = () => join(root, 'store/thing/usr/bin/tool');
  const deb = () => join(root, 'store/debs/tool_1_all.deb');

  it('fetches and unpacks once, and then does nothing', async () => {
    await ensure();
    expect(asked).toEqual(['resolve', 'fetch tool_1_all.deb', 'fetch old_1_all.deb']);
    expect(readFileSync(tool(), 'utf8')).toBe('tool');
    expect(readlinkSync(join(root, 'store/thing/lib'))).toBe('usr/lib');
    expect(existsSync(join(root, 'store/thing/usr/lib/x86_64-linux-gnu/libold.so'))).toBe(true);
    expect(existsSync(join(root, 'store/thing/usr/share/doc/tool'))).toBe(false);
    online = false;
    await ensure();
    expect(asked).toEqual([]);
  });

  it('asks for nothing, and fetches nothing, that there is no room for', async () => {
    const withRoom = (...bytes: number[]) => ensure(open({ room: () => bytes.shift() ?? 0 }));
    await expect(withRoom(1e6)).rejects.toMatchObject({
      message: expect.stringMatching(/store has room for 1 MB, and Debian's lists of packages take \d+ MB$/),
      hint: expect.stringContaining('VFIO_COMPANION_CACHE'),
    });
    expect(asked).toEqual([]);
    await expect(withRoom(1e9)).rejects.toThrow(/room for 0 MB, and the packages/);
    expect(asked).toEqual(['resolve']);
    await withRoom(1e9, 1e9);
    expect(readFileSync(tool(), 'utf8')).toBe('tool');
  });

  it('makes a folder again from which a file was deleted, without the network', async () => {
    await ensure();
    rmSync(tool());
    expect(await faultOf(join(root, 'store/thing'))).toContain('usr/bin/tool');
    online = false;
    await ensure();
    expect(asked).toEqual([]);
    expect(readFileSync(tool(), 'utf8')).toBe('tool');
  });

  it('fetches a truncated package again, and only that one', async () => {
    await ensure();
    rmSync(tool());
    truncateSync(deb(), 100);
    await ensure();
    expect(asked).toEqual(['resolve', 'fetch tool_1_all.deb']);
    expect(readFileSync(tool(), 'utf8')).toBe('tool');
  });

  it('sees a package of the right size with other content', async () => {
    await ensure();
    rmSync(tool());
    const bytes = readFileSync(deb());
    bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) ^ 1;
    writeFileSync(deb(), bytes);
    await ensure();
    expect(asked).toContain('fetch tool_1_all.deb');
  });

  it('sees changed content of the same size only when it looks deeply', async () => {
    await ensure();
    writeFileSync(tool(), 'loot');
    await ensure();
    expect(readFileSync(tool(), 'utf8')).toBe('loot');
    await ensure(open({ deep: true }));
    expect(readFileSync(tool(), 'utf8')).toBe('tool');
  });

  it('does not take a half-made folder for a whole one, and leaves none behind', async () => {
    const failing = open().ensurePackages('thing', set, 'one', async (into) => {
      writeFileSync(join(into, 'half'), '');
      throw new Error('interrupted');
    });
    await expect(failing).rejects.toThrow('interrupted');
    expect(readdirSync(join(root, 'store')).filter((name) => name.startsWith('thing'))).toEqual([]);
    // What a killed run leaves goes with the next one.
    mkdirSync(join(root, 'store/thing.new-99999'));
    await ensure();
    expect(readdirSync(join(root, 'store')).filter((name) => name.startsWith('thing'))).toEqual(['thing']);
  });

  it('makes the folder again for another recipe or other packages', async () => {
    expect(await ensure(open(), 'one')).toBe('one');
    expect(await ensure(open(), 'two')).toBe('two');
    packages = [makePackage('tool', { 'usr/bin/tool': 'newer' })];
    await ensure(open(), 'two');
    expect(readFileSync(tool(), 'utf8')).toBe('tool');
    await ensure(open({ update: true }), 'two');
    expect(readFileSync(tool(), 'utf8')).toBe('newer');
  });

  it('fails when a package is gone and there is no network', async () => {
    await ensure();
    rmSync(tool());
    rmSync(deb());
    online = false;
    await expect(ensure()).rejects.toThrow('no network');
  });

  it('downloads nothing on a machine that cannot run what is in the packages', async () => {
    const arch = Object.getOwnPropertyDescriptor(process, 'arch') ?? {};
    Object.defineProperty(process, 'arch', { ...arch, value: 'arm64' });
    try {
      await expect(ensure()).rejects.toMatchObject({
        message: 'thing can be made on an x86-64 machine only, and this one is arm64',
        hint: expect.stringContaining('VFIO_COMPANION_QEMU'),
      });
      expect(asked).toEqual([]);
    } finally {
      Object.defineProperty(process, 'arch', arch);
    }
    // What another machine has made can still be used.
    await ensure();
  });

  it('lets two set-ups at once do the work once', async () => {
    asked = [];
    let fills = 0;
    const make = async (): Promise<void> => {
      const store = open();
      await store.ensurePackages('thing', set, 'one', async (into, files) => {
        fills++;
        await unpack(store.pool, files, into);
        return {};
      });
    };
    await Promise.all([make(), make(), make()]);
    expect(fills).toBe(1);
  });
});

describe('withLock', () => {
  it('admits one at a time, and the next one after a failure', async () => {
    const file = join(root, 'lock');
    let inside = 0;
    const work = async (): Promise<void> => {
      expect(++inside).toBe(1);
      await new Promise((resolve) => setTimeout(resolve, 10));
      inside--;
    };
    await Promise.all([withLock(file, work), withLock(file, work)]);
    const failing = withLock(file, async () => {
      throw new Error('work failed');
    });
    await expect(failing).rejects.toThrow('work failed');
    await withLock(file, work);
  });
});
