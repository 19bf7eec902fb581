/**
 * Provider `none`: disks only. Whoever wants to use them connects to their URIs; nobody here knows who does. What it has to remember is one note in
 * the instance's folder.
 */
import type { Clock } from '../../../shared/clock.js';
import { AfterimageError } from '../../../shared/errors.js';
import type { CheckContext, ComputeProvider, GuestState, LaunchSpec } from './provider.js';
import { readStarted, removeFolder, removeStarted, writeStarted } from './started-note.js';

export class DisksOnly implements ComputeProvider {
  readonly kind = 'none';
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  problems(): Promise<readonly string[]> {
    return Promise.resolve([]);
  }

  async start(spec: LaunchSpec, { say }: CheckContext): Promise<void> {
    for (const { disk, uri } of spec.disks) say(`disk ${disk}: ${uri}`);
    if ((await readStarted(spec.folder)) === null) await writeStarted(spec.folder, this.#clock.nowMs());
  }

  async state({ folder }: LaunchSpec): Promise<GuestState> {
    const startedAtMs = await readStarted(folder);
    return startedAtMs === null
      ? { running: false, detail: 'its disks are not handed out', startedAtMs }
      : { running: true, detail: 'disks only: who uses them is not known here', startedAtMs };
  }

  async shutdown(
    { folder }: LaunchSpec,
    { force, say }: { force: boolean } & CheckContext,
  ): Promise<'clean' | 'forced' | 'not-running'> {
    if ((await readStarted(folder)) === null) return 'not-running';
    if (!force) {
      throw new AfterimageError('nobody here can power off what uses the disks', {
        code: 'no-guest',
        kind: 'refused',
        hint: 'Stop it yourself, then repeat with --force: the disks are taken away then.',
      });
    }
    say('the disks are taken away from whoever uses them');
    await removeStarted(folder);
    return 'forced';
  }

  kill({ folder }: LaunchSpec): Promise<void> {
    return removeStarted(folder);
  }

  cleanup({ folder }: LaunchSpec): Promise<void> {
    return removeFolder(folder);
  }
}
