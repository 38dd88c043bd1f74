import { describe, expect, it } from 'vitest';
import { modelNames, shippedModel } from '../../../device-models/index.ts';
import { deviceFaults, modelFaults } from '../../../src/runtime/model-check.ts';
import { isModelPath, loadModel, ModelModuleError, pickModel } from '../../../src/runtime/model-module.ts';
import { thrownBy } from '../../thrown.ts';
import { noState } from '../device/no-state.ts';

const good = {
  name: 'mine',
  description: 'a model',
  stateVersion: 2,
  loadsVersions: [1],
  options: { size: { type: 'number', default: 1, min: 0, description: 'a size' } },
  pci: () => ({}),
  create: () => ({}),
};

const refusal = (exports: Record<string, unknown>): ModelModuleError =>
  thrownBy(ModelModuleError, () => pickModel(exports, './x.js'));

describe('what is a model', () => {
  it.each(modelNames)('%s is, by that name', async (name) => {
    const model = await shippedModel(name);
    expect(modelFaults(model)).toEqual([]);
    expect(model?.name).toBe(name);
  });

  it('is nothing that has the name of something else', async () => {
    expect(await shippedModel('toString')).toBeUndefined();
  });

  it.each<[string, object, string]>([
    ['a name with a slash', { name: '../x' }, 'name is not'],
    ['no name', { name: undefined }, 'name is not'],
    ['no description', { description: 7 }, 'description is no text'],
    ['a version that is text', { stateVersion: '1' }, 'stateVersion is no whole number'],
    ['a version with a fraction', { stateVersion: 1.5 }, 'stateVersion is no whole number'],
    ['old versions that are no list', { loadsVersions: 1 }, 'loadsVersions is no list'],
    [
      'an old version of the future',
      { loadsVersions: [3] },
      'loadsVersions has a version above stateVersion',
    ],
    ['no options', { options: undefined }, 'options is no table (without options it is {})'],
    ['an option that is a value', { options: { size: 1 } }, 'options.size is no description'],
    [
      'an option of no type',
      { options: { size: { default: 1, description: '' } } },
      'options.size.type is not',
    ],
    [
      'an option whose default is of another type',
      { options: { size: { type: 'number', default: '1', description: '' } } },
      'options.size.default is no number',
    ],
    [
      'an option with a bound that is no number',
      { options: { size: { type: 'number', default: 1, max: '9', description: '' } } },
      'options.size.max is no number',
    ],
    ['pci that is data', { pci: {} }, 'pci is no function'],
    ['no create', { create: undefined }, 'create is no function'],
  ])('%s is not', (_what, change, fault) => {
    expect(modelFaults(good)).toEqual([]);
    expect(modelFaults({ ...good, ...change })).toEqual([expect.stringContaining(fault)]);
  });

  it.each([undefined, null, 7, 'mine', [], () => good])('%s is not', (value) => {
    expect(modelFaults(value)).toEqual(['it is no object']);
  });
});

describe('what is a device', () => {
  const bar = { read: () => {}, write: () => {} };
  const described = { 0: { size: 16, kind: 'memory32' } } as const;
  const device = { bars: { 0: bar, 1: undefined }, reset: () => {}, migration: noState };

  it.each<[string, object, string]>([
    ['without BARs', { bars: undefined }, 'bars is no table'],
    ['with a BAR that is not on the bus', { bars: { 1: bar } }, 'bars[1] handles a BAR that pci() does not'],
    ['with half a BAR', { bars: { 0: { read() {} } } }, 'bars[0] lacks read() or write()'],
    ['without a reset', { reset: undefined }, 'reset is no function'],
    ['with a hook that is data', { resume: true }, 'resume is no function'],
    ['with operations that are none', { operations: [] }, 'operations is no table'],
    ['with a migration that is none', { migration: true }, 'migration is no object'],
    ['without P2P told', { migration: { ...noState, p2p: undefined } }, 'migration.p2p is not'],
    ['without a geometry', { migration: { ...noState, geometry: undefined } }, 'migration.geometry is no'],
    ['without an end of loading', { migration: { ...noState, endLoad: 0 } }, 'migration.endLoad is no'],
    ['with data for a precopy', { migration: { ...noState, preCopy: 1 } }, 'migration.preCopy is no'],
  ])('one %s is not', (_what, change, fault) => {
    expect(deviceFaults(device, described)).toEqual([]);
    expect(deviceFaults({ ...device, ...change }, described)).toEqual([expect.stringContaining(fault)]);
  });

  it('nothing at all is not', () => {
    expect(deviceFaults(undefined, described)).toEqual(['it is no object']);
  });
});

describe('the model of a module', () => {
  it('is the default export, whatever else there is', () => {
    expect(pickModel({ default: good, other: { ...good }, pi: 3 }, './x.js')).toBe(good);
  });

  it('is the one export that is a model', () => {
    expect(pickModel({ helper: () => 1, mine: good, pi: 3 }, './x.js')).toBe(good);
  });

  it.each<[string, Record<string, unknown>, RegExp, RegExp]>([
    ['nothing', {}, /^\.\/x\.js exports no device model, nothing$/, /export default defineModel/],
    ['no model', { pi: 3, e: 2 }, /exports no device model, only pi, e$/, /export default defineModel/],
    ['two models', { a: good, b: good }, /exports 2 device models: a, b$/, /default export/],
    [
      'a default export with faults, all of them told',
      { default: { ...good, name: '', pci: 1 } },
      /^the default export of \.\/x\.js is no device model: name is .*; pci is no function$/,
      /writing-a-device/,
    ],
    ['a named model with a fault', { mine: { ...good, pci: 1 } }, /^export mine of \.\/x\.js is no/, /docs/],
  ])('is refused with the reason: %s', (_what, exports, message, hint) => {
    const error = refusal(exports);
    expect(error).toMatchObject({ code: 'VC_MODEL_MODULE' });
    expect(error.message).toMatch(message);
    expect(error.hint).toMatch(hint);
  });

  it('is told from the name of a model by a slash or an ending', () => {
    for (const path of ['./x', '/a/b.js', 'x.js', 'x.mjs', 'x.cjs', 'x.ts', 'file:///x.js'])
      expect(isModelPath(path), path).toBe(true);
    for (const name of ['ram', 'mlx5', 'my-model', 'json', 'x.y'])
      expect(isModelPath(name), name).toBe(false);
  });

  it.each(['./no-such-file.js', '/', 'file://host/x.js'])('needs a file: %s', async (path) => {
    await expect(loadModel(path)).rejects.toMatchObject({
      code: 'VC_MODEL_MODULE',
      hint: expect.stringContaining('give the path of a module'),
    });
  });
});
