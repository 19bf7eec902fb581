/**
 * The generation of a machine: who may write its points. Raised when the right changes hands (failover, failback), taken again under the same
 * number when the receiver that has it restarts.
 *
 * Promises: from the moment raiseGeneration() resolves nobody of an older generation can commit: sessions that stand lose their epoch, agents
 * that come back are refused at hello. Nothing of the chain changes but what the manifest says about who goes on with it.
 * On a crash: the manifest with the new generation is there or it isn't; a call whose answer was lost finds `generation-moved`, and its caller
 * reads the manifest to learn whether that was itself.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import { loadIdentity } from './identity-io.js';
import type { Manifest } from './manifest.js';
import { OwnedMachine, type CatalogDeps, type ManifestContent } from './owned-machine.js';

/**
 * Takes the machine over for a new generation: above the manifest's and above that of its enrolment (an agent that was enrolled again and has not
 * said hello yet has one that no manifest holds). What was staged is dropped and no series goes on, unless `change` sets one.
 * `expected`: the generation of the manifest that the caller decided upon; another one found → kind `fenced`, code `generation-moved`.
 */
export function raiseGeneration(
  deps: CatalogDeps,
  machine: MachineId,
  expected: number,
  change: (content: ManifestContent) => ManifestContent = (content) => content,
): Promise<OwnedMachine> {
  return OwnedMachine.takeOver(deps, machine, async (previous) => {
    const content = contentOfGeneration(machine, previous, expected);
    const identity = await loadIdentity(deps.store, machine);
    const generation = Math.max(expected, identity?.generation ?? 0) + 1;
    const disks = content.disks.map((disk) => ({ ...disk, staged: null, series: null }));
    return { ...change({ ...content, disks }), generation };
  });
}

/** A new epoch within a generation, after a restart of the receiver. Another generation found → kind `fenced`, code `generation-moved`. */
export function resumeGeneration(deps: CatalogDeps, machine: MachineId, generation: number): Promise<OwnedMachine> {
  return OwnedMachine.takeOver(deps, machine, (previous) =>
    Promise.resolve(contentOfGeneration(machine, previous, generation)),
  );
}

function contentOfGeneration(machine: MachineId, manifest: Manifest | null, expected: number): ManifestContent {
  if (manifest === null) {
    throw new AfterimageError(`machine ${machine} has no recovery point yet`, {
      code: 'machine-empty',
      kind: 'not-found',
      hint: 'Its first copy is not complete; see the state of its agent.',
    });
  }
  if (manifest.generation !== expected) {
    throw new AfterimageError(
      `machine ${manifest.machine.name} is at generation ${manifest.generation}, not at ${expected}: the right to write it went to somebody else`,
      {
        code: 'generation-moved',
        kind: 'fenced',
        hint: 'It was failed over, failed back or enrolled again meanwhile. See `afterimage status`, then decide again.',
      },
    );
  }
  const { generation, machine: who, lastPoint, disks, pages, tail } = manifest;
  return { generation, machine: who, lastPoint, disks, pages, tail };
}
