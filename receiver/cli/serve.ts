/**
 * `afterimage serve MACHINE --point P`: disks of a recovery point as NBD exports, in the foreground, from nothing but the store.
 * What was written is on this host only and never reaches the chain. On a crash: see serve-state.ts.
 */
import { join } from 'node:path';
import { parseBytes } from '../../shared/config/parse-values.js';
import { usageError } from '../../shared/errors.js';
import { SERVE_CACHE_BYTES_MAX } from '../../shared/limits.js';
import { createLogger, type Logger } from '../../shared/log.js';
import { asDiskId, type MachineId } from '../../shared/units.js';
import { resolveMachine } from '../catalog/machines.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import { parsePointSelector, type PointSelector } from '../catalog/point-selector.js';
import type { MachineReader, PointDisk } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { LastingPoint, type OpenContent } from '../volume/lasting-point.js';
import { startNbdServer, type NbdExport } from '../volume/nbd/server.js';
import { nbdUri } from '../volume/nbd/uri.js';
import { openPointContent } from '../volume/point-content.js';
import { startThreadsFor } from '../volume/threads/pool.js';
import { Volume } from '../volume/volume.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { localIso, printJson, tellConcerns } from './output.js';
import { holderOf, openReadable, pinDeps, warn } from './pinned.js';
import { addressOf, listenOf, parseListen, type ListenWish } from './serve-listen.js';
import { openServeState, type ServeState } from './serve-state.js';
import { keptText, servedText, type Served } from './serve-text.js';

export interface ServeOptions extends GlobalOptions {
  readonly point: string;
  readonly disk?: string;
  readonly writable?: boolean;
  readonly keep?: boolean;
  readonly listen?: string;
  readonly cacheBytes?: string;
  readonly state?: string;
}

interface Source {
  readonly lasting: LastingPoint;
  readonly machine: MachineReader;
  readonly point: RecoveryPoint;
  readonly disks: readonly PointDisk[];
}

export async function serveCommand(word: string, options: ServeOptions, io: CliIo): Promise<void> {
  const selector = parsePointSelector(options.point);
  const wish = options.listen === undefined ? null : parseListen(options.listen);
  const cacheBytes = cacheBytesOf(options.cacheBytes);
  const { writable = false, keep = false } = options;
  if (keep && !writable) throw usageError('--keep needs --writable: there is nothing to keep otherwise');
  const log = createLogger('afterimage', 'warn', io.err);
  const store = await openConfiguredStore(options, io);
  // This process is there to be read from: they are started before a client waits for it.
  startThreadsFor(store);
  try {
    const lasting = await openLasting(store, await resolveMachine(store, word), selector, log, io);
    try {
      warn(lasting.warning, options, io);
      if (options.json !== true) tellConcerns(io, lasting.view.concerns);
      await serve(lasting, wish, { ...options, writable, keep }, cacheBytes, log, io);
    } finally {
      await lasting.release();
    }
  } finally {
    await store.close();
  }
}

function openLasting(
  store: ObjectStore,
  machine: MachineId,
  selector: PointSelector,
  log: Logger,
  io: CliIo,
): Promise<LastingPoint> {
  const cache = new IndexCache();
  const openContent: OpenContent = (view, point, disk, signal) =>
    openPointContent(store, view, point, disk, cache, signal);
  return LastingPoint.open(
    { ...pinDeps(store, io), log, openContent, openView: openReadable },
    machine,
    selector,
    holderOf('serve'),
  );
}

async function serve(
  lasting: LastingPoint,
  wish: ListenWish | null,
  options: ServeOptions & { readonly writable: boolean; readonly keep: boolean },
  cacheBytes: number,
  log: Logger,
  io: CliIo,
): Promise<void> {
  const { view: machine, point } = lasting;
  const { writable, keep } = options;
  const disks = options.disk === undefined ? point.disks : [machine.diskOf(point, asDiskId(options.disk))];
  if (disks.length === 0) throw usageError(`point ${point.number} has no disk`);
  const tls = wish === null ? null : await listenOf(wish, options, io);
  const { id } = machine.manifest.machine;
  const state = await openServeState({ machine: id, point: point.number, keep, folder: options.state });
  const listen = tls ?? { socketPath: join(state.folder, 'nbd.sock') };
  try {
    const volumes = await openVolumes({ lasting, machine, point, disks }, state, { writable, cacheBytes, log }, io);
    try {
      await serveUntilStopped(volumes, listen, { options, machine, point, state, log }, io);
    } finally {
      await closeAll(volumes.map((v) => v.volume));
    }
  } finally {
    await state.end();
  }
  if (keep && options.json !== true) io.err.write(keptText(machine.manifest.machine.name, point.number, state.folder));
}

function cacheBytesOf(text: string | undefined): number {
  if (text === undefined) return SERVE_CACHE_BYTES_MAX;
  const bytes = /^\d+$/.test(text) ? Number(text) : parseBytes(text);
  if (bytes !== null && Number.isSafeInteger(bytes)) return bytes;
  throw usageError(`--cache-bytes ${text} is not a size`, 'Give a number of bytes, or a size such as 2GiB.');
}

interface OpenedDisk {
  readonly disk: PointDisk;
  readonly volume: Volume;
}

async function openVolumes(
  { lasting, machine, point, disks }: Source,
  state: ServeState,
  how: { readonly writable: boolean; readonly cacheBytes: number; readonly log: Logger },
  io: CliIo,
): Promise<OpenedDisk[]> {
  const opened: OpenedDisk[] = [];
  try {
    for (const disk of disks) {
      const volume = await Volume.open({
        folder: state.diskFolder(disk.disk),
        disk: disk.disk,
        content: await lasting.content(disk.disk, io.signal),
        baseKey: `${machine.manifest.machine.id}/${disk.disk}/${point.number}/${disk.digest}`,
        writable: how.writable,
        fetchBesideAfterBytes: 0,
        cacheBytesMax: Math.floor(how.cacheBytes / disks.length),
        clock: io.clock,
        log: how.log,
      });
      opened.push({ disk, volume });
    }
  } catch (error) {
    await closeAll(opened.map((v) => v.volume));
    throw error;
  }
  return opened;
}

/** All of them, also when one fails; then throws its error. */
async function closeAll(volumes: readonly Volume[]): Promise<void> {
  const failed = (await Promise.allSettled(volumes.map((v) => v.close()))).find((r) => r.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

interface Serving {
  readonly options: ServeOptions;
  readonly machine: MachineReader;
  readonly point: RecoveryPoint;
  readonly state: ServeState;
  readonly log: Logger;
}

async function serveUntilStopped(
  volumes: readonly OpenedDisk[],
  listen: Awaited<ReturnType<typeof listenOf>>,
  { options, machine, point, state, log }: Serving,
  io: CliIo,
): Promise<void> {
  if (io.signal.aborted) return;
  const { name } = machine.manifest.machine;
  const exports: readonly NbdExport[] = volumes.map(({ disk, volume }) => ({
    name: disk.disk,
    description: `${name}, point ${point.number}, disk ${disk.disk}`,
    device: volume,
  }));
  const server = await startNbdServer({ listen, exports: () => exports, log, clock: io.clock });
  try {
    const address = addressOf(listen);
    const served: Served = {
      machine: name,
      point: point.number,
      cutAt: localIso(point.cutAtMs),
      disks: volumes.map(({ disk: { disk, sizeBytes } }) => ({ disk, sizeBytes, uri: nbdUri(address, disk) })),
      writable: options.writable === true,
      keep: options.keep === true,
      continued: state.continued,
      folder: state.folder,
      tls: 'tls' in address && address.tls,
    };
    if (options.json === true) printJson(io, served);
    else io.err.write(servedText(served));
    await stopped(io.signal);
  } finally {
    await server.stop();
  }
}

const stopped = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
