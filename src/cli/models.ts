import type { Command } from 'commander';
import { models } from '../../device-models/index.ts';
import type { DeviceModel } from '../device/model.ts';
import { CompanionError } from '../errors.ts';
import { describeOptions } from '../runtime/options.ts';

/** The model called `name` among `shipped`; throws with the list of all when there is none. */
export function findModel(name: string, shipped = models): DeviceModel {
  const model = shipped.get(name);
  if (model) return model;
  throw new CompanionError('VC_NO_MODEL', `there is no model "${name}"`, {
    hint: `the models are ${[...shipped.keys()].join(', ')}`,
  });
}

export function registerModels(program: Command): void {
  program
    .command('models')
    .description('list the device models and their options')
    .option('--json', 'for machines')
    .action(({ json }: { json?: boolean }) => {
      if (json) {
        const list = [...models.values()].map(({ name, description, stateVersion, options }) => ({
          name,
          description,
          stateVersion,
          options,
        }));
        process.stdout.write(`${JSON.stringify(list, null, 2)}\n`);
        return;
      }
      for (const { name, description, options } of models.values()) {
        process.stdout.write(`${name}: ${description}\n${describeOptions(options)}\n`);
      }
    });
}
