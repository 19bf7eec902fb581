import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { createNotifier, keepWatchdog, unixAddress } from '../../shared/sd-notify.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'afterimage-notify-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Prints each datagram as a line of JSON; `@` stands for the abstract namespace. */
const LISTENER = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
name = sys.argv[1]
s.bind('\\0' + name[1:] if name.startswith('@') else name)
print(json.dumps('bound'), flush=True)
while True: print(json.dumps(s.recv(65536).decode()), flush=True)
`;

async function listenOn(name: string): Promise<{ received: string[]; child: ChildProcess }> {
  const child = spawn('python3', ['-c', LISTENER, name], { stdio: ['ignore', 'pipe', 'inherit'] });
  const received: string[] = [];
  let text = '';
  child.stdout.on('data', (bytes) => {
    text += String(bytes);
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    received.push(...lines.map((line) => JSON.parse(line) as string));
  });
  await once(child.stdout, 'data');
  return { received, child };
}

test.each([
  ['a path', () => join(folder, 'notify.sock')],
  ['an abstract name', () => `@afterimage-test-${process.pid}`],
])('systemd is told through %s', async (_what, nameOf) => {
  const name = nameOf();
  const { received, child } = await listenOn(name);
  const notifier = createNotifier({ NOTIFY_SOCKET: name, WATCHDOG_USEC: '100000', WATCHDOG_PID: String(process.pid) });
  expect(notifier.watchdogIntervalMs).toBe(50);
  expect(notifier.ready()).toBe(true);
  expect(notifier.status('3 disks\nREADY=0')).toBe(true);
  expect(notifier.stopping()).toBe(true);
  await expect.poll(() => received).toEqual(['bound', 'READY=1\n', 'STATUS=3 disks READY=0\n', 'STOPPING=1\n']);

  const abort = new AbortController();
  let healthy = true;
  const keeping = keepWatchdog(notifier, systemClock, () => healthy, abort.signal);
  await expect.poll(() => received.filter((text) => text === 'WATCHDOG=1\n').length).toBeGreaterThan(2);
  healthy = false;
  await systemClock.sleep(60);
  const told = received.length;
  await systemClock.sleep(150);
  expect(received.length).toBe(told);
  abort.abort();
  await keeping;
  child.kill();
  await once(child, 'exit');
  // Nobody listens any more: no error, just false.
  expect(notifier.alive()).toBe(false);
});

test('without systemd nothing happens', async () => {
  const notifier = createNotifier({ WATCHDOG_USEC: '100000' });
  expect(notifier.watchdogIntervalMs).toBeNull();
  expect(notifier.ready()).toBe(false);
  await keepWatchdog(notifier, systemClock, () => true, new AbortController().signal);
});

test.each([
  ['none asked', {}, null],
  ['for another process', { WATCHDOG_USEC: '2000000', WATCHDOG_PID: '1' }, null],
  ['for any process', { WATCHDOG_USEC: '2000000' }, 1000],
  ['nonsense', { WATCHDOG_USEC: 'soon' }, null],
])('watchdog: %s', (_what, env, expected) => {
  expect(createNotifier({ NOTIFY_SOCKET: '/run/none', ...env }).watchdogIntervalMs).toBe(expected);
});

test.each([['relative'], [''], [`/${'x'.repeat(107)}`]])('not an address: %s', (path) => {
  expect(unixAddress(path)).toBeNull();
});
