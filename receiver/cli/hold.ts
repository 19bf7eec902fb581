/**
 * `afterimage hold MACHINE POINT --name NAME` and `afterimage release MACHINE NAME`: points that retention never drops. They lie in the store: no
 * receiver has to run; one that runs sees them before it drops anything.
 */
import { AfterimageError, usageError } from '../../shared/errors.js';
import { addHold, confirmHold, holdSchema, removeHold } from '../catalog/holds.js';
import { resolveMachine } from '../catalog/machines.js';
import { parsePointSelector } from '../catalog/point-selector.js';
import { MachineReader } from '../catalog/reader.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { localIso, printJson } from './output.js';

export interface HoldOptions extends GlobalOptions {
  readonly name: string;
  readonly note?: string;
}

export async function holdCommand(word: string, pointText: string, options: HoldOptions, io: CliIo): Promise<void> {
  const selector = parsePointSelector(pointText);
  const name = checkedName(options.name);
  const note = checkedNote(options.note ?? '');
  const store = await openConfiguredStore(options, io);
  try {
    const machine = await resolveMachine(store, word);
    const point = await (await MachineReader.open(store, machine)).findPoint(selector);
    const deps = { store, clock: io.clock };
    const hold = await addHold(deps, machine, { name, point: point.number, note });
    const confirmed = await confirmHold(deps, machine, point.number, io.signal);
    if (confirmed === 'gone') {
      await removeHold(deps, machine, name);
      throw new AfterimageError(`point ${point.number} was dropped by retention just before it was held`, {
        code: 'hold-late',
        kind: 'refused',
        hint: `Choose another: see \`afterimage points ${word}\`. Nothing is held.`,
      });
    }
    if (options.json === true) {
      printJson(io, { ...hold, confirmed: confirmed === 'kept' });
      return;
    }
    io.err.write(`Point ${point.number} of ${word} (${localIso(point.cutAtMs)}) is held as ${name}.\n`);
    if (confirmed === 'waiting') {
      io.err.write(
        'Not confirmed yet: nothing was committed for this machine meanwhile. A receiver that was deciding at this very moment may still drop the ' +
          `point; look again after its next one: \`afterimage points ${word}\`.\n`,
      );
    }
  } finally {
    await store.close();
  }
}

function checkedName(name: string): string {
  if (holdSchema.shape.name.safeParse(name).success) return name;
  throw usageError(
    `--name ${name} is not a name of a hold`,
    'Give 1 to 64 letters, digits, dots, dashes or underscores.',
  );
}

function checkedNote(note: string): string {
  if (holdSchema.shape.note.safeParse(note).success) return note;
  throw usageError(`--note has ${note.length} characters`, 'Give 500 at most.');
}

export async function releaseCommand(word: string, name: string, options: GlobalOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  try {
    const machine = await resolveMachine(store, word);
    const hold = await removeHold({ store, clock: io.clock }, machine, name);
    if (options.json === true) printJson(io, { released: hold });
    else io.err.write(`Hold ${name} is released: point ${hold.point} of ${word} is kept as long as the policy says.\n`);
  } finally {
    await store.close();
  }
}
