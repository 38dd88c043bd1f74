import type { Command } from 'commander';
import { modelNames, shippedModel } from '../../device-models/index.ts';
import type { OpenPort } from '../../device-models/mlx5/index.ts';
import type { DeviceModel } from '../device/model.ts';
import { CompanionError } from '../errors.ts';
import { isModelPath, loadModel } from '../runtime/model-module.ts';
import { describeOptions } from '../runtime/options.ts';

/** The model that ships as `name`, with ports that `openPort` makes, or that of the module at the path `name`. */
export async function findModel(name: string, openPort?: OpenPort): Promise<DeviceModel> {
  if (isModelPath(name)) return loadModel(name);
  const model = await shippedModel(name, openPort);
  if (model) return model;
  throw new CompanionError('VC_NO_MODEL', `there is no model "${name}"`, {
    hint: `the models are ${modelNames.join(', ')}; a module of your own is given by its path, ./${name}.js`,
  });
}

export function registerModels(program: Command): void {
  program
    .command('models')
    .description('list the device models and their options')
    .argument('[model]', 'only this one: a name, or the path of a module that exports one')
    .option('--json', 'for machines')
    .action(async (only: string | undefined, { json }: { json?: boolean }) => {
      const wanted = only === undefined ? modelNames : [only];
      const listed = await Promise.all(wanted.map((name) => findModel(name)));
      if (json) {
        const list = listed.map(({ name, description, stateVersion, options }) => ({
          name,
          description,
          stateVersion,
          options,
        }));
        process.stdout.write(`${JSON.stringify(list, null, 2)}\n`);
        return;
      }
      for (const { name, description, options } of listed) {
        process.stdout.write(`${name}: ${description}\n${describeOptions(options)}\n`);
      }
    });
}
