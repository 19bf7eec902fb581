/**
 * `afterimage scrub MACHINE`: reads every object that a machine's points need, from the store alone, and marks what is bad. Goes on where it was
 * cancelled. `afterimage damage MACHINE`: what is marked.
 */
import { AfterimageError } from '../../shared/errors.js';
import { isOpen } from '../catalog/damage.js';
import { loadDamage } from '../catalog/damage-io.js';
import { resolveMachine } from '../catalog/machines.js';
import { loadHead } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import type { MachineId } from '../../shared/units.js';
import { paceOf } from '../upkeep/scrub-pace.js';
import { scrubPass, type ScrubDeps } from '../upkeep/scrub-pass.js';
import { surveyObjects } from '../upkeep/scrub-survey.js';
import { Progress } from '../volume/progress.js';
import { openConfiguredStore } from './context.js';
import { damageTable } from './damage-table.js';
import type { CliIo, GlobalOptions } from './io.js';
import { bytes, printJson } from './output.js';
import { progressView } from './progress-view.js';

export interface ScrubOptions extends GlobalOptions {
  readonly now?: boolean;
  /** Bytes per second. */
  readonly rate?: number;
}

export async function scrubCommand(word: string, options: ScrubOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  const machine = await resolveMachine(store, word);
  const view = await progressView(io, word);
  try {
    const { signal, clock } = io;
    const pace = paceOf(options.rate ?? null, clock, signal);
    const onProgress = await progressOf(store, machine, io, view.onProgress);
    const deps: ScrubDeps = { store, clock, pace, signal, onProgress };
    const result = await scrubPass(deps, machine, { fromStart: options.now === true });
    view.stop();
    const open = result.items.filter(isOpen);
    if (options.json === true) {
      const { readBytes, objects, findings } = result;
      printJson(io, { machine, objects, readBytes, findings, damaged: open });
    } else {
      io.out.write(`${result.objects} objects read, ${bytes(result.readBytes)}: ${open.length} damaged\n`);
      if (open.length > 0) io.out.write(damageTable(open));
    }
    if (open.length > 0) throw damaged(open.length, word);
  } finally {
    view.stop();
    await store.close();
  }
}

/** Undefined where the manifest can't be read: the pass says why. */
async function progressOf(
  store: ObjectStore,
  machine: MachineId,
  io: CliIo,
  report: ConstructorParameters<typeof Progress>[4],
): Promise<ScrubDeps['onProgress']> {
  const head = await loadHead(store, machine).catch(() => null);
  if (head === null) return undefined;
  const { layerBytes } = await surveyObjects(store, head);
  let progress: Progress | undefined;
  let done = 0;
  return ({ readBytes }) => {
    // The first report tells what an earlier run has read.
    progress ??= new Progress('scrub', Math.max(layerBytes, readBytes), (done = readBytes), io.clock, report);
    progress.add(readBytes - done);
    done = readBytes;
  };
}

export async function damageCommand(word: string, options: GlobalOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  const machine = await resolveMachine(store, word);
  const damage = await loadDamage(store, machine);
  await store.close();
  const items = damage?.items ?? [];
  if (options.json === true) printJson(io, { machine, more: damage?.more ?? 0, items });
  else if (items.length === 0) io.err.write(`Nothing of machine ${word} is known to be damaged.\n`);
  else io.out.write(damageTable(items));
}

export const damaged = (count: number, word: string): AfterimageError =>
  new AfterimageError(`${count} objects of machine ${word} are damaged`, {
    code: 'objects-damaged',
    kind: 'corrupt',
    hint: `See \`afterimage damage ${word}\`. A receiver mends what can be mended by itself, or now by \`afterimage repair ${word}\`; bring other objects back from a copy of the store.`,
  });
