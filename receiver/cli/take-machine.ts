/**
 * A machine taken over by a command that works without a running receiver. It is refused where somebody may have it: a manifest was written lately, or a
 * copy runs. An agent that comes back takes a new epoch, so nothing has to be given back.
 */
import { randomUUID } from 'node:crypto';
import { AfterimageError } from '../../shared/errors.js';
import { UPKEEP_LIVE_OWNER_MS } from '../../shared/limits-upkeep.js';
import { formatDuration, type MachineId } from '../../shared/units.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import { MachineReader } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { isUnused, takeOverForUpkeep } from '../upkeep/take-over.js';
import type { CliIo } from './io.js';

export async function takeMachine(store: ObjectStore, machine: MachineId, io: CliIo): Promise<OwnedMachine> {
  const mayTake = (): Promise<void> => mustBeFree(store, machine, io);
  await mayTake();
  const deps = { store, clock: io.clock, randomId: randomUUID };
  const { owned, setAside } = await takeOverForUpkeep(deps, machine, mayTake);
  for (const { object, why } of setAside) io.err.write(`set aside, the agent sends it again: ${object}: ${why}\n`);
  return owned;
}

async function mustBeFree(store: ObjectStore, machine: MachineId, io: CliIo): Promise<void> {
  const { manifest } = await MachineReader.open(store, machine);
  const ageMs = io.clock.nowMs() - manifest.writtenAtMs;
  const isQuiet = ageMs >= UPKEEP_LIVE_OWNER_MS;
  if (isQuiet && (await isUnused(store, machine))) return;
  const why = isQuiet
    ? 'a copy of it runs or is being made'
    : `it was written ${formatDuration(Math.max(0, ageMs))} ago`;
  throw new AfterimageError(
    `machine ${manifest.machine.name} seems to be looked after by a receiver that isn't here: ${why}`,
    {
      code: 'machine-owned',
      kind: 'refused',
      hint: 'Run this where its receiver runs, or give its control socket with --socket.',
    },
  );
}
