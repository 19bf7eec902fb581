/**
 * The scrub in the receiver's own process: it runs by the configuration, and /status and /metrics say what it found.
 * Proven to be able to fail: with the scrub's figures left out of either.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { isOpen } from '../../receiver/catalog/damage.js';
import { receiverConfigSchema } from '../../receiver/config.js';
import { runReceiver } from '../../receiver/daemon.js';
import { systemClock } from '../../shared/clock.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { finishedStore } from './finished-store.js';

removeTempFolders();

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

interface Status {
  readonly scrub: readonly { machine: string; completedAtMs: number | null; damaged: Record<string, number> }[];
}

it('finds what is bad by itself, and says so in /status and /metrics', { timeout: 120_000 }, async () => {
  const folder = await tempFolder('scrub-daemon');
  const { store, machines } = await finishedStore();
  const [{ machine } = { machine: '' }] = machines;
  const layer = [...store.objects.keys()].find(
    (name) => name.startsWith(`machines/${machine}/`) && /\/delta\//.test(name),
  );
  for (const [name, bytes] of store.objects) {
    const copy = Buffer.from(bytes);
    if (name === layer) copy[100] = (copy[100] ?? 0) ^ 1;
    await mkdir(dirname(join(folder, 'store', name)), { recursive: true });
    await writeFile(join(folder, 'store', name), copy);
  }
  const config = receiverConfigSchema.parse({
    store: `file:${join(folder, 'store')}`,
    stateDir: join(folder, 'state'),
    controlSocket: join(folder, 'control.sock'),
    listen: { host: '127.0.0.1', port: await freePort() },
    status: { port: await freePort() },
    fleet: { heartbeat: '200ms' },
    scrub: { every: '1s', rate: '100MB/s' },
    log: { level: 'silent' },
  });
  const stop = new AbortController();
  const running = runReceiver(config, stop.signal);
  try {
    const figures = await untilFound(config.status.port, machine);
    expect(figures.completedAtMs).not.toBeNull();
    const metrics = await (await fetch(`http://127.0.0.1:${config.status.port}/metrics`)).text();
    const open = Object.entries(figures.damaged).filter(([state, count]) => count > 0 && isOpen({ state } as never));
    expect(open.length).toBeGreaterThan(0);
    for (const [state, count] of open)
      expect(metrics).toContain(`afterimage_damaged_objects{machine="${machine}",state="${state}"} ${count}`);
    expect(metrics).toMatch(new RegExp(`afterimage_scrub_read_bytes\\{machine="${machine}"\\} [1-9]`));
    expect(metrics).toMatch(new RegExp(`afterimage_scrub_completed_timestamp_seconds\\{machine="${machine}"\\} [1-9]`));
  } finally {
    stop.abort();
    await running;
  }
});

/** The machine's figures once its damage is counted and a whole pass is over. */
async function untilFound(port: number, machine: string): Promise<Status['scrub'][number]> {
  for (let i = 0; i < 1000; i++) {
    const answer = await fetch(`http://127.0.0.1:${port}/status`).catch(() => null);
    const found = ((await answer?.json()) as Status | undefined)?.scrub.find((one) => one.machine === machine);
    const open = (found?.damaged['found'] ?? 0) + (found?.damaged['lost'] ?? 0);
    if (found !== undefined && found.completedAtMs !== null && open > 0) return found;
    await systemClock.sleep(100);
  }
  throw new Error('the scrub of the receiver has found nothing');
}
