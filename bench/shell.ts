/**
 * Commands of the bench: run one, run a peer and measure it. CPU seconds are those of all processes of a script, taken from the shell's own
 * `times` after it has waited for its children, so a server that the script started counts as well.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';

/** Runs a command to its end and returns what it printed; throws with its errors when it fails. */
export function sh(script: string, env: Readonly<Record<string, string>> = {}): string {
  const done = spawnSync('bash', ['-e', '-o', 'pipefail', '-c', script], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 64 * 2 ** 20,
  });
  if (done.status !== 0) throw new Error(`${script}\nfailed (${String(done.status)}): ${done.stderr}${done.stdout}`);
  return done.stdout;
}

/** As `sh`, without blocking this process. */
export async function shAsync(script: string, env: Readonly<Record<string, string>> = {}): Promise<string> {
  const child = spawn('bash', ['-e', '-o', 'pipefail', '-c', script], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const out: Buffer[] = [];
  const errors: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => errors.push(chunk));
  const status = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve(code));
  });
  const text = Buffer.concat(out).toString('utf8');
  if (status !== 0)
    throw new Error(`${script}\nfailed (${String(status)}): ${Buffer.concat(errors).toString('utf8')}${text}`);
  return text;
}

export interface Cost {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

export interface PeerScript {
  /** Before the clock starts: servers in the background, empty repositories. */
  readonly setup?: string;
  readonly timed: string;
  /** Ends what `setup` started. */
  readonly teardown?: string;
}

/** Wall time of `timed`; CPU of everything that the script started, `setup` of servers included. */
export async function measure(script: PeerScript, env: Readonly<Record<string, string>> = {}): Promise<Cost> {
  const text = await shAsync(
    `${script.setup ?? ''}
cpu() { times | tail -n 1; }
c0=$(times | tail -n 1); s=$EPOCHREALTIME
${script.timed}
e=$EPOCHREALTIME
${script.teardown ?? ''}
wait || true
echo; echo "MEASURED $s $e"; times`,
    env,
  );
  const found = /MEASURED (\S+) (\S+)\n[^\n]*\n(\S+) (\S+)/.exec(text);
  if (found === null) throw new Error(`no measure in: ${text}`);
  const [, start = '', end = '', user = '', system = ''] = found;
  return { seconds: Number(end) - Number(start), cpuSeconds: minutes(user) + minutes(system) };
}

/** `1m2.345s` as seconds. */
function minutes(text: string): number {
  const found = /^(\d+)m([\d.]+)s$/.exec(text);
  return found === null ? NaN : Number(found[1]) * 60 + Number(found[2]);
}

/** Program → package of Debian. */
const TOOLS: Readonly<Record<string, string>> = {
  lz4: 'lz4',
  'nc.openbsd': 'netcat-openbsd',
  restic: 'restic',
  borg: 'borgbackup',
  rsync: 'rsync',
  nbdcopy: 'libnbd-bin',
  nbdkit: 'nbdkit',
  'qemu-img': 'qemu-utils',
  fio: 'fio',
  'mkfs.xfs': 'xfsprogs',
};

/** Installs the peers that are missing. */
export function installPeers(): void {
  const folders = (process.env['PATH'] ?? '').split(':').concat('/usr/sbin', '/sbin');
  const missing = Object.entries(TOOLS).filter(([name]) => !folders.some((f) => existsSync(`${f}/${name}`)));
  if (missing.length === 0) return;
  const packages = missing.map(([, name]) => name).join(' ');
  sh(`apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ${packages}`);
}

/** A load of fio until it is stopped. Its jobs are threads: as processes of their own they would outlive a killed parent. */
export class Fio {
  /** Those that run now. */
  static readonly running = new Set<Fio>();
  readonly #process: ChildProcess;
  readonly #ended: Promise<void>;

  constructor(args: string) {
    const always = '--thread --time_based --runtime=1h';
    this.#process = spawn('fio', `${args} ${always}`.split(' '), { stdio: 'ignore' });
    this.#ended = new Promise((resolve) => this.#process.once('exit', () => resolve()));
    Fio.running.add(this);
  }

  async stop(): Promise<void> {
    Fio.running.delete(this);
    this.#process.kill('SIGKILL');
    await this.#ended;
  }
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
