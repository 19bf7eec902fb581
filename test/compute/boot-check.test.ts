/** Boot checks against things that come up late, wrongly, or never. (With real guests: qemu.test.ts.) */
import { once } from 'node:events';
import { appendFileSync, existsSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { runBootCheck, serialProbe, type BootCheckContext } from '../../receiver/failover/boot-check.js';
import type { GuestState } from '../../receiver/failover/compute/provider.js';
import { systemClock } from '../../shared/clock.js';
import { freePort } from '../guest/guest.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { launchSpec } from './launch.js';

removeTempFolders();
const running: GuestState = { running: true, detail: 'running', startedAtMs: 0 };
const context = (overrides: Partial<BootCheckContext> = {}): BootCheckContext => ({
  spec: launchSpec({ test: true }),
  serialPath: null,
  startedAtMs: Date.now(),
  clock: systemClock,
  signal: new AbortController().signal,
  say: () => undefined,
  state: async () => running,
  ...overrides,
});

const open: (() => void)[] = [];
afterEach(() => open.splice(0).forEach((close) => close()));
async function serve(port: number, answer: RequestListener): Promise<void> {
  const server = createServer(answer).listen(port, '127.0.0.1');
  open.push(() => void server.close());
  await once(server, 'listening');
}

describe('serial', () => {
  it('finds a text across reads, and in a file that begins anew', async () => {
    const path = join(await tempFolder('serial'), 'serial.log');
    const probe = serialProbe(path, 'READY boots=1');
    expect(await probe(0)).toMatch(/printed nothing/);
    writeFileSync(path, `${'x'.repeat(100_000)}\nREADY`);
    expect(await probe(0)).toMatch(/last line: "READY"/);
    appendFileSync(path, ' boots=');
    expect(await probe(0)).not.toBeNull();
    appendFileSync(path, '1\n');
    expect(await probe(0)).toBeNull();

    const later = serialProbe(path, 'login:');
    expect(await later(0)).not.toBeNull();
    writeFileSync(path, 'login:');
    expect(await later(0)).toBeNull();
    // Across the border of a read of 64 KiB.
    writeFileSync(path, `${'y'.repeat(65_533)}login:`);
    expect(await serialProbe(path, 'login:')(0)).toBeNull();
  });

  it('says what it saw last, and needs a console', async () => {
    const serialPath = join(await tempFolder('serial'), 'serial.log');
    writeFileSync(serialPath, 'booting\npanic: no root\n');
    const check = { type: 'serial', text: 'READY', timeoutMs: 300 } as const;
    const result = await runBootCheck(check, context({ serialPath }));
    expect(result).toMatchObject({ type: 'serial', passed: false });
    expect(result.detail).toMatch(/^not within 0\.3 s: .*panic: no root/);
    expect(result.tookMs).toBeGreaterThanOrEqual(300);
    expect(await runBootCheck(check, context())).toMatchObject({ passed: false });
  });

  it('a guest that has ended: what it printed still counts, but nothing is waited for', async () => {
    const serialPath = join(await tempFolder('serial'), 'serial.log');
    writeFileSync(serialPath, 'READY\n');
    const state = async (): Promise<GuestState> => ({ running: false, detail: 'ended: powered off', startedAtMs: 1 });
    const check = { type: 'serial', text: 'READY', timeoutMs: 60_000 } as const;
    expect(await runBootCheck(check, context({ serialPath, state }))).toMatchObject({ passed: true });
    const missing = await runBootCheck({ ...check, text: 'login' }, context({ serialPath, state }));
    expect(missing).toMatchObject({ passed: false });
    expect(missing.detail).toMatch(/not running: ended: powered off/);
  });
});

describe('tcp and http', () => {
  it('pass when the port opens late; fail when it never does', async () => {
    const port = await freePort();
    const check = { type: 'tcp', host: '127.0.0.1', port, timeoutMs: 20_000 } as const;
    setTimeout(() => void serve(port, (_, answer) => answer.end()), 400);
    const result = await runBootCheck(check, context());
    expect(result.passed).toBe(true);
    expect(result.tookMs).toBeGreaterThan(300);
    const closed = { ...check, port: await freePort(), timeoutMs: 300 };
    expect(await runBootCheck(closed, context())).toMatchObject({
      passed: false,
      detail: expect.stringContaining('ECONNREFUSED') as string,
    });
  });

  it('tookMs counts from the start of the guest, a late check still has one try', async () => {
    const port = await freePort();
    await serve(port, (_, answer) => answer.end());
    const late = { startedAtMs: Date.now() - 90_000 };
    const result = await runBootCheck({ type: 'tcp', host: '127.0.0.1', port, timeoutMs: 1_000 }, context(late));
    expect(result.passed).toBe(true);
    expect(result.tookMs).toBeGreaterThanOrEqual(90_000);
  });

  it('status and text', async () => {
    const port = await freePort();
    let tries = 0;
    await serve(port, (request, answer) => {
      if (request.url === '/slow' && tries++ < 2) answer.writeHead(503).end('starting');
      else if (request.url === '/moved') answer.writeHead(302, { location: '/' }).end();
      else if (request.url !== '/hang') answer.end('welcome to web1');
    });
    const http = (path: string, more: { status?: number; text?: string } = {}): ReturnType<typeof runBootCheck> =>
      runBootCheck({ type: 'http', url: `http://127.0.0.1:${port}${path}`, timeoutMs: 1_500, ...more }, context());
    expect((await http('/slow')).passed).toBe(true);
    expect((await http('/moved', { status: 302 })).passed).toBe(true);
    expect((await http('/', { text: 'web1' })).passed).toBe(true);
    expect(await http('/', { text: 'web2' })).toMatchObject({ passed: false });
    expect((await http('/', { status: 404 })).detail).toContain('status 200, not 404');
    expect((await http('/hang')).detail).toContain('no answer in time');
  });
});

describe('command', () => {
  it('is run again until it passes', async () => {
    const folder = await tempFolder('check');
    const script = `printf %s "$AFTERIMAGE_TEST$AFTERIMAGE_INSTANCE" > ${folder}/env; [ -e ${folder}/second ] || { touch ${folder}/second; echo not yet; exit 1; }`;
    const result = await runBootCheck({ type: 'command', command: ['sh', '-c', script], timeoutMs: 20_000 }, context());
    expect(result.passed).toBe(true);
    expect(existsSync(join(folder, 'second'))).toBe(true);
    const failing = { type: 'command', command: ['sh', '-c', 'echo no database; exit 3'], timeoutMs: 200 } as const;
    const failed = await runBootCheck({ ...failing, command: [...failing.command] }, context());
    expect(failed).toMatchObject({
      passed: false,
      detail: expect.stringMatching(/exit code 3 \(no database\)/) as string,
    });
    const hanging = await runBootCheck({ type: 'command', command: ['sleep', '60'], timeoutMs: 300 }, context());
    expect(hanging.detail).toContain('no end within');
  });
});

describe('none, ends, cancelling', () => {
  it('passes for what runs, not for what is paused', async () => {
    expect((await runBootCheck({ type: 'none' }, context())).passed).toBe(true);
    const state = async (): Promise<GuestState> => ({ ...running, detail: 'paused (I/O error)' });
    const paused = await runBootCheck({ type: 'none' }, context({ state, startedAtMs: 0 }));
    expect(paused).toMatchObject({ passed: false, detail: expect.stringContaining('paused') as string });
  });

  it('a guest that ends fails its check at once; a state that can’t be had doesn’t', async () => {
    let asked = 0;
    const state = async (): Promise<GuestState> => {
      asked++;
      if (asked === 1) throw new Error('hypervisor is busy');
      return asked < 4 ? running : { ...running, running: false, detail: 'ended by signal SIGKILL' };
    };
    const check = { type: 'tcp', host: '127.0.0.1', port: await freePort(), timeoutMs: 60_000 } as const;
    const result = await runBootCheck(check, context({ state }));
    expect(result).toMatchObject({ passed: false, detail: 'the guest is not running: ended by signal SIGKILL' });
    expect(result.tookMs).toBeLessThan(30_000);
  });

  it('a cancelled check throws', async () => {
    const cut = new AbortController();
    setTimeout(() => cut.abort(), 100);
    const check = { type: 'tcp', host: '127.0.0.1', port: await freePort(), timeoutMs: 60_000 } as const;
    await expect(runBootCheck(check, context({ signal: cut.signal }))).rejects.toMatchObject({ kind: 'cancelled' });
  });
});
