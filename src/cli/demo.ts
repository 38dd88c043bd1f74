import { type Command, Option } from 'commander';
import { demo, scenes } from '../../qemu-scripts/demo.ts';
import { defaultDowntimeLimitMs, positive } from './value.ts';

export function registerDemo(program: Command): void {
  program
    .command('demo')
    .description('boot a guest, put it under load, migrate it live, and prove that nothing was lost')
    .addOption(
      new Option('--device <model>', 'a network card with traffic, or memory that changes by itself')
        .choices(Object.keys(scenes))
        .default('mlx5'),
    )
    .option('--report <file>', 'where the HTML report goes', 'vfio-companion-demo.html')
    .option('--downtime-limit <ms>', 'longest blackout to aim at', positive, defaultDowntimeLimitMs)
    .action(demo);
}
