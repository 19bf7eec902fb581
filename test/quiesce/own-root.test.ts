/**
 * An agent that freezes its own root: its programs, libraries, state and log lie on the protected disk, as on a machine with one filesystem. It runs in a
 * mount namespace of its own, with that filesystem as its root. Nothing waits for itself, and the root is thawed when the agent is killed amid it.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import type { CycleResult } from '../../agent/cycle/machine-cycle.js';
import { MIB } from '../../shared/units.js';
import { filesBelow } from '../../systemd/package/closure.js';
import { RECIPES } from '../../systemd/package/recipe.js';
import { stage } from '../../systemd/package/stage.js';
import { canRunLab, Lab, WHY_NO_LAB } from '../e2e/lab.js';
import { BUILD, type Output } from '../e2e/program.js';
import { StallWriter } from './stalls.js';

const REPO = join(import.meta.dirname, '../..');
const DEADLINE_MS = 5_000;
/** A writer that was let go needs a processor until it knows. */
const SLACK_MS = 1_500;
const HOME = '/usr/lib/afterimage-agent';

/** The agent as its package lays it out, with all that its Node.js is linked against, and a shell for hooks. */
function furnish(root: string): void {
  stage(RECIPES['afterimage-agent'], {
    root: REPO,
    dist: BUILD,
    target: root,
    node: { path: process.execPath, version: process.version, licencePath: join(REPO, 'LICENSE') },
    version: '0.1.0',
    architecture: 'amd64',
  });
  const bindings = filesBelow(join(root, HOME)).filter((path) => path.endsWith('.node'));
  const programs = [process.execPath, ...bindings.map((path) => join(root, HOME, path))];
  // What is meant for another system is linked against what isn't here.
  const linked = programs.map((path) => spawnSync('ldd', [path], { encoding: 'utf8' }).stdout).join('\n');
  for (const [library] of linked.matchAll(/\/\S+(?= \()/g)) place(library, join(root, library));
  place('/bin/busybox', join(root, 'bin/sh'));
  // It knows by this that it is the machine that was enrolled.
  if (existsSync('/etc/machine-id')) place('/etc/machine-id', join(root, 'etc/machine-id'));
  for (const folder of ['dev', 'proc', 'sys', 'tmp', 'hooks', 'log']) mkdirSync(join(root, folder));
}

function place(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
}

/** `$0` is the root; what follows runs in it. */
const ENTER = [
  'mount --rbind /dev "$0/dev"',
  'mount -t proc proc "$0/proc"',
  'mount --rbind /sys "$0/sys"',
  'exec chroot "$0" "$@"',
].join(' && ');

let lab: Lab | undefined;
afterEach(async () => {
  await lab?.cleanUp();
  lab = undefined;
});

it.skipIf(!canRunLab)(`an agent freezes its own root (${WHY_NO_LAB})`, { timeout: 120_000 }, async () => {
  const l = (lab = await Lab.open({
    disks: [256 * MIB],
    interval: '1h',
    // In there the lab's folder is seen as well, with the root mounted in it a second time.
    agent: (folder) => ({
      stateDir: join(folder, 'mount0/state'),
      hooks: { dir: join(folder, 'mount0/hooks') },
      freeze: { deadline: `${DEADLINE_MS}ms` },
    }),
    agentCommand: (folder) => [
      ...(['unshare', '-m', '--propagation', 'private', 'sh', '-c', ENTER, join(folder, 'mount0')] as const),
      ...[`${HOME}/bin/node`, `${HOME}/dist/agent/main.js`],
    ],
  }));
  const root = l.mount(0, 'ext4');
  furnish(root);
  symlinkSync(join(root, 'log/agent.log'), l.agentLog);
  writeFileSync(join(root, 'hooks/10-app'), '#!/bin/sh\necho "$1" > /state-of-app\n', { mode: 0o755 });
  const point = (): Promise<Output> => l.run('agent', 'point', '--json');
  const cutOf = ({ stdout }: Output): CycleResult['cut'] => (JSON.parse(stdout) as CycleResult).cut;

  await l.startReceiver();
  await l.enrol();
  await l.protect();
  const agent = await l.startAgent();
  await l.untilProtected();
  expect(readFileSync(`/proc/${agent.pid}/root/hooks/10-app`, 'utf8')).toContain('state-of-app');
  const writer = await StallWriter.start(root);
  l.undo(() => writer.stop());
  for (let i = 0; i < 2; i++) {
    const cut = cutOf(await point());
    expect(cut).toMatchObject({ consistency: 'application', weaker: '' });
    expect(cut.freezeMs).toBeGreaterThan(0);
  }
  const [newest] = await l.points();
  expect(newest?.quiesce?.filesystems).toEqual(['/']);
  expect(newest?.quiesce?.hooks.map(({ phase, failure }) => [phase, failure])).toEqual([
    ['pre', null],
    ['post', null],
  ]);
  await l.restore(newest?.number);
  execFileSync('e2fsck', ['-fn', l.restoredPath(0)], { stdio: 'ignore' });
  const restored = execFileSync('debugfs', ['-R', 'cat /state-of-app', l.restoredPath(0)], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  expect(String(restored).trim()).toBe('pre');
  const pointsMs = await writer.longestMs();

  await agent.stop();
  const killed = await l.startAgent({ AFTERIMAGE_FAILPOINT: 'agent.cycle.frozen' });
  await l.untilProtected();
  expect((await point()).code).not.toBe(0);
  expect(await killed.ended).toMatchObject({ signal: 'SIGKILL' });
  const killedMs = await writer.longestMs();
  console.log(
    `own root frozen: a writer waited for ${pointsMs.toFixed(0)} ms, ${killedMs.toFixed(0)} ms with the agent killed amid it`,
  );
  expect(killedMs).toBeLessThan(DEADLINE_MS + SLACK_MS);
  await l.startAgent();
  await l.untilProtected();
  expect(cutOf(await point())).toMatchObject({ consistency: 'application', weaker: '' });
});
