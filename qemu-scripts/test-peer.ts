/** A peer for a guest where no tap can be made: test-peer SWITCH_SOCKET IP. Answers ARP, ping and UDP echo (port 7). */
import { isIPv4 } from 'node:net';
import { createLogger } from '../src/log.ts';
import { createReactor } from '../src/loop/index.ts';
import { openPort, specText } from '../src/net/index.ts';
import { TestPeer } from '../src/net/testing/test-peer.ts';
import { fromCommandLine } from './arguments.ts';

const { socket, ip } = fromCommandLine('test-peer SWITCH_SOCKET IP', ([socket, ip, ...more], usage) => {
  if (socket === undefined || ip === undefined || !isIPv4(ip) || more.length > 0)
    throw new Error(`usage: ${usage}`);
  return { socket, ip };
});
const log = createLogger({ name: 'test-peer', level: 'warn' });
const reactor = createReactor({ onError: (error) => log.error({ err: error }, 'unexpected') });
const port = openPort(`switch:${specText(socket)},name=${ip}`, { reactor, log });
const tail = ip
  .split('.')
  .slice(1)
  .map((part) => Number(part).toString(16).padStart(2, '0'));
new TestPeer(port, { mac: `52:54:10:${tail.join(':')}`, ip });
process.once('SIGTERM', () => reactor.stop());
port.onLink((up) => {
  if (up) process.stdout.write('ready\n');
});
if (port.linkUp) process.stdout.write('ready\n');
await reactor.run();
port.close();
