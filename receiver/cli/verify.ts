/**
 * `afterimage verify MACHINE`: proves that points can be restored, by reading what they need. Writes nothing.
 */
import { AfterimageError, messageOf, usageError } from '../../shared/errors.js';
import { formatBytes } from '../../shared/units.js';
import { resolveMachine } from '../catalog/machines.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import { parsePointSelector, type PointSelector } from '../catalog/point-selector.js';
import type { PinnedPoint } from '../catalog/pinned-point.js';
import type { MachineReader } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { ChunkLedger, verifyDisk } from '../volume/verify.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { planDisk } from './disk-at-point.js';
import { localIso, printJson } from './output.js';
import { pinForCommand } from './pinned.js';
import { progressView } from './progress-view.js';

export interface VerifyOptions extends GlobalOptions {
  readonly point?: string;
  readonly all?: boolean;
}

interface Verdict {
  readonly point: number;
  readonly cutAt: string;
  readonly restorable: boolean;
  readonly readBytes: number;
  readonly problem: { readonly code: string; readonly message: string } | null;
}

/** With all of them the newest is pinned: what older points of the same manifest need stays as well. */
async function* chosen({ view, point }: PinnedPoint, options: VerifyOptions): AsyncGenerator<RecoveryPoint> {
  if (options.all === true) yield* view.pointsNewestFirst();
  else yield point;
}

async function verifyPoint(
  store: ObjectStore,
  machine: MachineReader,
  point: RecoveryPoint,
  ledgers: Map<string, ChunkLedger>,
  cache: IndexCache,
  io: CliIo,
): Promise<Verdict> {
  const verdict = { point: point.number, cutAt: localIso(point.cutAtMs) };
  let readBytes = 0;
  try {
    for (const disk of point.disks) {
      const planned = await planDisk(store, machine, point, disk, cache, io.signal);
      const ledger = ledgers.get(disk.disk) ?? new ChunkLedger();
      ledgers.set(disk.disk, ledger);
      const view = await progressView(io, `point ${point.number}, ${disk.disk}`);
      try {
        const { signal, clock } = io;
        readBytes += (await verifyDisk({ ...planned, ledger, signal, clock, onProgress: view.onProgress })).readBytes;
      } finally {
        view.stop();
      }
    }
    return { ...verdict, restorable: true, readBytes, problem: null };
  } catch (error) {
    // Only what is wrong with the data is a verdict; a store that can't be read, or a cancel, ends the command.
    if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
    return { ...verdict, restorable: false, readBytes, problem: { code: error.code, message: messageOf(error) } };
  }
}

export async function verifyCommand(machineWord: string, options: VerifyOptions, io: CliIo): Promise<void> {
  if (options.all === true && options.point !== undefined) throw usageError('--all and --point exclude each other');
  const selector: PointSelector =
    options.all === true ? { by: 'newest' } : parsePointSelector(options.point ?? 'latest');
  const store = await openConfiguredStore(options, io);
  let pinned: PinnedPoint | null = null;
  try {
    pinned = await pinForCommand(store, await resolveMachine(store, machineWord), selector, 'verify', options, io);
    const signal = AbortSignal.any([io.signal, pinned.lost]);
    await verifyPoints(store, pinned, options, { ...io, signal });
  } catch (error) {
    if (pinned?.lost.aborted === true) throw pinned.lost.reason;
    throw error;
  } finally {
    await pinned?.release();
    await store.close();
  }
}

async function verifyPoints(store: ObjectStore, pinned: PinnedPoint, options: VerifyOptions, io: CliIo): Promise<void> {
  const { view: machine } = pinned;
  const cache = new IndexCache();
  const ledgers = new Map<string, ChunkLedger>();
  const verdicts: Verdict[] = [];
  for await (const point of chosen(pinned, options)) {
    const verdict = await verifyPoint(store, machine, point, ledgers, cache, io);
    verdicts.push(verdict);
    if (options.json === true) continue;
    io.out.write(
      verdict.restorable
        ? `point ${verdict.point} of ${verdict.cutAt}: restorable (${formatBytes(verdict.readBytes)} read)\n`
        : `point ${verdict.point} of ${verdict.cutAt}: NOT restorable: ${verdict.problem?.message ?? ''}\n`,
    );
  }
  if (options.json === true) printJson(io, { machine: machine.manifest.machine.id, points: verdicts });
  const bad = verdicts.filter((v) => !v.restorable).length;
  if (bad === 0) return;
  throw new AfterimageError(`${bad} of ${verdicts.length} points can not be restored`, {
    code: 'points-not-restorable',
    kind: 'corrupt',
    hint: `Take another point. \`afterimage scrub ${machine.manifest.machine.name} --now\` marks what is damaged; the receiver then mends what can be mended.`,
  });
}
