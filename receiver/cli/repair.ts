/**
 * `afterimage repair MACHINE`: mends what the scrub has marked, at once: by the running receiver, which can ask the machine's agent, else by this command
 * from what the store has, which then takes the machine over.
 */
import { AfterimageError } from '../../shared/errors.js';
import { SCRUB_BYTES_PER_SECOND } from '../../shared/limits-scrub.js';
import { silentLogger } from '../../shared/log.js';
import type { MachineId } from '../../shared/units.js';
import { isOpen, type DamageItem } from '../catalog/damage.js';
import { loadDamage } from '../catalog/damage-io.js';
import { resolveMachine } from '../catalog/machines.js';
import type { ObjectStore } from '../store/store.js';
import { Pace } from '../upkeep/pace.js';
import { repairMachine } from '../upkeep/scrub-repair.js';
import { configuredSocket, openConfiguredStore } from './context.js';
import { askRepair, NO_DAEMON } from './control-client.js';
import { damageTable } from './damage-table.js';
import type { CliIo, GlobalOptions } from './io.js';
import { printJson } from './output.js';
import { damaged } from './scrub.js';
import { takeMachine } from './take-machine.js';

export async function repairCommand(word: string, options: GlobalOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  try {
    const machine = await resolveMachine(store, word);
    const before = (await loadDamage(store, machine))?.items.filter(isOpen) ?? [];
    const items = before.length === 0 ? [] : await repairSomewhere(store, machine, options, io);
    const concerned = items.filter((item) => before.some((b) => b.object === item.object && b.kind === item.kind));
    if (options.json === true) printJson(io, { machine, items: concerned });
    else if (concerned.length === 0) io.err.write(`Nothing of machine ${word} is known to be damaged.\n`);
    else io.out.write(damageTable(concerned));
    const open = items.filter(isOpen);
    if (open.length > 0) throw damaged(open.length, word);
  } finally {
    await store.close();
  }
}

async function repairSomewhere(
  store: ObjectStore,
  machine: MachineId,
  options: GlobalOptions,
  io: CliIo,
): Promise<readonly DamageItem[]> {
  try {
    return await askRepair(await configuredSocket(options), io.signal, machine);
  } catch (error) {
    if (!(error instanceof AfterimageError) || error.code !== NO_DAEMON) throw error;
  }
  const owned = await takeMachine(store, machine, io);
  const { clock, signal } = io;
  const pace = new Pace(clock, SCRUB_BYTES_PER_SECOND, signal);
  const ask = (): Promise<never> => Promise.reject(nobodyToAsk());
  await repairMachine({ store, beneath: store, clock, log: silentLogger(), owned, pace, signal, ask });
  return (await loadDamage(store, machine))?.items ?? [];
}

const nobodyToAsk = (): AfterimageError =>
  new AfterimageError('no receiver runs here that its agent could be asked through', {
    code: 'home-absent',
    kind: 'disconnected',
    hint: 'Start the receiver; it mends by itself once the agent is connected.',
  });
