/**
 * The shorter form of `npm run guest-life`: the package in a real machine with systemd and LVM, its service enabled, doctor, first copy, a clean reboot that needs no
 * comparison; points restored and compared after each. Power cut, upgrade, removal, hooks, multipath and the root disk are in the long one.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { messageOf } from '../../shared/errors.js';
import { canRunLab, WHY_NO_LAB } from '../e2e/lab.js';
import { BUILD } from '../e2e/program.js';
import { guestUnavailable } from '../guest/guest.js';
import { Life } from './life.js';

const unavailable = canRunLab ? guestUnavailable() : WHY_NO_LAB;
if (unavailable !== null) console.warn(`the guest's life is skipped: ${unavailable}`);

describe.skipIf(unavailable !== null)('a machine with the package', () => {
  /** Images are opened past the page cache, which a folder in memory need not know. */
  let folder: string | null = null;
  let life: Life | null = null;
  afterAll(async () => {
    await life?.end();
    if (folder !== null) rmSync(folder, { recursive: true, force: true });
  }, 120_000);

  it('is protected and rebooted, and each point holds what its disks held', async () => {
    const at = (folder = mkdtempSync('/var/tmp/afterimage-life-'));
    const said: string[] = [];
    const say = (text: string): void => void said.push(text);
    const options = ['--compress', 'none', '--out', at, '--version', '0.1.0'];
    const program = join(BUILD, 'systemd/package/main.js');
    const made = execFileSync(process.execPath, [program, 'afterimage-agent', ...options], { encoding: 'utf8' }).trim();
    try {
      life = await Life.begin({ folder: at, packages: [made, made], withRoot: false, say });
      await life.install();
      await life.protect();
      await life.cleanReboot();
    } catch (error) {
      const log = readFileSync(join(at, 'receiver.log'), 'utf8').split('\n').slice(-20).join('\n');
      throw new Error(`${messageOf(error)}\n${said.join('\n')}\nreceiver's log:\n${log}`, { cause: error });
    }
    expect(said.filter((line) => /restored/.test(line))).toHaveLength(2);
  }, 1_500_000);
});
