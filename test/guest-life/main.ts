/**
 * `npm run guest-life [-- --data-only]`: a Debian guest under emulation is protected by the real package and lives through installation, first copy, an
 * application-consistent point, clean reboot, power cut, power off, upgrade and removal; points are restored and compared. Some twenty minutes, more on a
 * busy machine. Exit code 1 at the first promise that isn't kept.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { BUILD } from '../e2e/program.js';
import { canRunLab, WHY_NO_LAB } from '../e2e/lab.js';
import { guestUnavailable } from '../guest/guest.js';
import { Life } from './life.js';

const { values } = parseArgs({
  options: {
    /** The root disk is not protected: half the time. */
    'data-only': { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  },
});
const why = canRunLab ? guestUnavailable() : WHY_NO_LAB;
if (why !== null) {
  process.stderr.write(`guest-life: ${why}\n`);
  process.exit(2);
}

const startMs = performance.now();
const say = (text: string): void =>
  void process.stdout.write(`${((performance.now() - startMs) / 1000).toFixed(0).padStart(6)} s  ${text}\n`);

function pack(folder: string, version: string): string {
  const options = ['--compress', 'gzip', '--out', folder, '--version', version];
  const program = join(BUILD, 'systemd/package/main.js');
  return execFileSync(process.execPath, [program, 'afterimage-agent', ...options], { encoding: 'utf8' }).trim();
}

// Images are opened past the page cache, which a folder in memory need not know.
const folder = mkdtempSync('/var/tmp/afterimage-life-');
let life: Life | null = null;
try {
  say('packages of two versions are built');
  const packages = [pack(folder, '0.1.0'), pack(folder, '0.1.1')] as const;
  life = await Life.begin({ folder, packages, withRoot: !values['data-only'], say });
  await life.install();
  await life.protect();
  await life.applicationPoint();
  await life.cleanReboot();
  await life.powerCut();
  await life.cleanPowerOff();
  await life.upgrade();
  await life.remove();
  say('all promises were kept');
} catch (error) {
  process.exitCode = 1;
  say(`NOT KEPT: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  say(`receiver's log:\n${readFileSync(join(folder, 'receiver.log'), 'utf8').split('\n').slice(-20).join('\n')}`);
} finally {
  await life?.end();
  if (values.keep) say(`left: ${folder}`);
  else rmSync(folder, { recursive: true, force: true });
}
