/**
 * `npm run guest-life [-- --data-only]`: a Debian guest under emulation is protected by the real package and lives through installation, first copy, an
 * application-consistent point, clean reboot, power cut, power off, upgrade, a disk behind two paths and removal; points are restored and compared. Some
 * fifteen minutes, more on a busy machine. Exit code 1 at the first promise that isn't kept.
 *
 * `-- --in FOLDER` leaves all that there is in that folder; `-- --in FOLDER --from CHAPTER [--until CHAPTER]` goes on with it.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { BUILD } from '../e2e/program.js';
import { canRunLab, WHY_NO_LAB } from '../e2e/lab.js';
import { guestUnavailable } from '../guest/guest.js';
import { Life, type LifeOptions } from './life.js';

const CHAPTERS = [
  'install',
  'protect',
  'applicationPoint',
  'cleanReboot',
  'powerCut',
  'cleanPowerOff',
  'upgrade',
  'multipath',
  'secondPath',
  'remove',
] as const;

const { values } = parseArgs({
  options: {
    /** The root disk is not protected: half the time. */
    'data-only': { type: 'boolean', default: false },
    /** On a filesystem that knows O_DIRECT. Default: one that goes at the end. */
    in: { type: 'string' },
    from: { type: 'string' },
    until: { type: 'string' },
  },
});

function usage(text: string): never {
  process.stderr.write(`guest-life: ${text}\n`);
  process.exit(2);
}

const why = canRunLab ? guestUnavailable() : WHY_NO_LAB;
if (why !== null) usage(why);
const placeOf = (name: string): number => {
  const place = CHAPTERS.findIndex((chapter) => chapter === name);
  return place < 0 ? usage(`no chapter ${name}: there are ${CHAPTERS.join(', ')}`) : place;
};
const from = placeOf(values.from ?? CHAPTERS[0]);
const until = values.until === undefined ? CHAPTERS.length - 1 : placeOf(values.until);
if (values.from !== undefined && values.in === undefined)
  usage('--from needs --in: the folder of the run that is gone on with');

const startMs = performance.now();
const say = (text: string): void =>
  void process.stdout.write(`${((performance.now() - startMs) / 1000).toFixed(0).padStart(6)} s  ${text}\n`);

function pack(folder: string, version: string): string {
  const options = ['--compress', 'none', '--out', folder, '--version', version];
  const program = join(BUILD, 'systemd/package/main.js');
  return execFileSync(process.execPath, [program, 'afterimage-agent', ...options], { encoding: 'utf8' }).trim();
}

async function begin(options: Omit<LifeOptions, 'packages'>): Promise<Life> {
  const { folder } = options;
  if (values.from !== undefined) {
    const names = ['0.1.0', '0.1.1'].map((version) => join(folder, `afterimage-agent_${version}_amd64.deb`));
    return Life.goOn({ ...options, packages: names as [string, string] });
  }
  say('packages of two versions are built');
  return Life.begin({ ...options, packages: [pack(folder, '0.1.0'), pack(folder, '0.1.1')] });
}

// Images are opened past the page cache, which a folder in memory need not know.
const folder = values.in === undefined ? mkdtempSync('/var/tmp/afterimage-life-') : resolve(values.in);
mkdirSync(folder, { recursive: true });
let life: Life | null = null;
try {
  life = await begin({ folder, withRoot: !values['data-only'], say });
  for (const chapter of CHAPTERS.slice(from, until + 1)) await life[chapter]();
  say(
    from === 0 && until === CHAPTERS.length - 1 ? 'all promises were kept' : 'the promises of these chapters were kept',
  );
} catch (error) {
  process.exitCode = 1;
  say(`NOT KEPT: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  say(`receiver's log:\n${readFileSync(join(folder, 'receiver.log'), 'utf8').split('\n').slice(-20).join('\n')}`);
} finally {
  await life?.end();
  if (values.in === undefined) rmSync(folder, { recursive: true, force: true });
}
