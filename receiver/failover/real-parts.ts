/**
 * The failover engine's parts as they are in a receiver: volumes, NBD, replication, providers, home agents.
 */
import type { Logger } from 'pino';
import type { Clock } from '../../shared/clock.js';
import type { ManifestOwner } from '../catalog/manifest.js';
import type { OwnedMachines } from '../catalog/owned-machines.js';
import type { HomeAgents } from '../session/home-agent.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { nbdUri } from '../volume/nbd/uri.js';
import { startNbdServer } from '../volume/nbd/server.js';
import { openPointContent } from '../volume/point-content.js';
import { VolumeReplicator } from '../volume/replicate.js';
import { Volume } from '../volume/volume.js';
import { runBootCheck } from './boot-check.js';
import { providerOf } from './compute/index.js';
import { guestFiles } from './compute/qemu-arguments.js';
import type { CopyReplicator, FailoverParts, OtherReceivers } from './parts.js';

export interface RealPartsOptions {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
  readonly log: Logger;
  readonly home: HomeAgents;
  /** Is told of machines whose copies are replicated here. */
  readonly machines?: OwnedMachines;
  readonly owner?: ManifestOwner | null;
  readonly fleet?: OtherReceivers;
  readonly intervalMs: number;
  readonly cacheBytesMax: number | null;
  readonly env: Readonly<NodeJS.ProcessEnv>;
}

export function realParts(options: RealPartsOptions): FailoverParts {
  const { store, clock, randomId, log, home, owner, env } = options;
  const indexes = new IndexCache();
  const compute = { clock, env };
  return {
    store,
    clock,
    randomId,
    log,
    home,
    owner: owner ?? null,
    ...(options.fleet === undefined ? {} : { fleet: options.fleet }),
    openContent: (view, point, disk, signal) => openPointContent(store, view, point, disk, indexes, signal),
    openVolume: (volume) =>
      Volume.open({ ...volume, writable: true, cacheBytesMax: options.cacheBytesMax, clock, log }),
    startNbd: (socketPath, exports) => startNbdServer({ listen: { socketPath }, exports: () => exports, log, clock }),
    nbdUri: (socketPath, exportName) => nbdUri({ socketPath }, exportName),
    provider: (kind) => providerOf(kind, compute),
    bootCheck: (check, provider, spec, startedAtMs, { signal, say }) => {
      const serialPath = provider.kind === 'qemu' ? guestFiles(spec.folder).serial : null;
      const state = () => provider.state(spec);
      return runBootCheck(check, { spec, serialPath, startedAtMs, clock, signal, say, state });
    },
    replicator: ({ owned, volumes }) => {
      options.machines?.add(owned);
      return replicatorOf(
        new VolumeReplicator(
          { store, clock, randomId, log },
          { owned, volumes, intervalMs: options.intervalMs, reason: 'running copy' },
        ),
        clock,
      );
    },
  };
}

export function replicatorOf(replicator: VolumeReplicator, clock: Clock): CopyReplicator {
  return {
    run: (signal) => replicator.run(signal),
    pointNow: async (reason) => (await replicator.pointNow(reason)).number,
    resend: async (disk, extents, signal) => (await replicator.resend(disk, extents, signal)).number,
    get status() {
      const { lastPoint, lastPointAtMs, pendingBytes, problem, points } = replicator.status;
      const seconds = pendingBytes === 0 ? 0 : Math.max(0, clock.nowMs() - lastPointAtMs) / 1000;
      return { lastPoint, dataAtRisk: { seconds, bytes: pendingBytes }, pointsCommitted: points, problem };
    },
  };
}
