import type { Command } from 'commander';
import { ramDemo } from '../../qemu-scripts/demo.ts';

export function registerDemo(program: Command): void {
  program
    .command('demo')
    .description('boot a guest, put it under load, migrate it live, and prove that nothing was lost')
    .option('--report <file>', 'where the HTML report goes', 'vfio-companion-demo.html')
    .action(ramDemo);
}
