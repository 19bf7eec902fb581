/**
 * The receiver's process: opens CA and store, serves sessions and the status endpoint, tells systemd, stops cleanly on a signal.
 * Holds no state that can't be thrown away: everything is in the store, but for the CA and unused tokens.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../shared/clock.js';
import { startStatusServer } from '../shared/http/status-server.js';
import { createLogger } from '../shared/log.js';
import { createNotifier, keepWatchdog } from '../shared/sd-notify.js';
import { formatHostPort } from '../shared/wire/host-port.js';
import type { MachineId } from '../shared/units.js';
import { VERSION } from '../shared/version.js';
import { startControlServer } from './api/control.js';
import { KnownGroups } from './catalog/groups.js';
import { loadPolicy, Policies } from './catalog/policy-io.js';
import { loadRecovery } from './catalog/recovery-io.js';
import { OwnedMachines } from './catalog/owned-machines.js';
import { loadHead } from './catalog/reader.js';
import { attachKeys, keysOf } from './catalog/store-keys.js';
import type { ReceiverConfig } from './config.js';
import { FailoverEngine } from './failover/engine.js';
import { realParts } from './failover/real-parts.js';
import { GroupService } from './groups/group-service.js';
import { groupMetrics } from './group-metrics.js';
import { Fleet } from './fleet/fleet.js';
import { Handovers } from './fleet/handovers.js';
import { fleetFigures, fleetStatus } from './fleet/fleet-status.js';
import { fleetMetrics } from './fleet-metrics.js';
import type { ReceiverLoad } from './fleet/record.js';
import { receiverId } from './fleet/receiver-id.js';
import { RateMeter } from './fleet/rate-meter.js';
import { openKeys } from './keys/config.js';
import { receiverMetrics } from './metrics.js';
import { openAuthority } from './session/ca.js';
import { enrollHandler } from './session/enroll-http.js';
import { Enrollment } from './session/enroll.js';
import { authenticator } from './session/identity.js';
import { keepingServer } from './session/kept-server.js';
import { SessionRegistry } from './session/registry.js';
import { startSessionServer } from './session/server.js';
import { TokenStore } from './session/tokens.js';
import { scrubMetrics } from './scrub-metrics.js';
import { withCache } from './store-cache.js';
import { StoreMetrics } from './store-metrics.js';
import { openStore } from './store/open.js';
import { Mending } from './upkeep/mending.js';
import { ScrubTask } from './upkeep/scrub-task.js';
import { UpkeepService } from './upkeep/service.js';

export async function runReceiver(config: ReceiverConfig, signal: AbortSignal): Promise<void> {
  const clock = systemClock;
  const log = createLogger('afterimage-receiver', config.log.level);
  const program = `afterimage-receiver ${VERSION}`;
  const notifier = createNotifier();
  const ca = keepingServer(await openAuthority(config.stateDir, clock), config.stateDir, clock, (message) => {
    log.warn(message);
  });
  const storeMetrics = new StoreMetrics();
  const uncached = await openStore(config.store, { clock, create: true, watch: storeMetrics });
  const store = await withCache(uncached, config);
  await openKeys(store, config.encryption, { clock, warn: (machine, message) => log.warn({ machine }, message) });
  attachKeys(uncached, keysOf(store));
  if (config.encryption.provider === undefined)
    log.info('no key provider is configured: only machines whose source encrypts are encrypted');
  const policies = new Policies(store, clock, config.policy);
  const machines = new OwnedMachines();
  const id = await receiverId(config.stateDir, randomUUID);
  const name = config.fleet.name ?? hostname();
  const addresses = config.advertise ?? [formatHostPort({ host: hostname(), port: config.listen.port })];
  const ingested = new RateMeter(clock);
  const knownGroups = new KnownGroups(store, clock);
  const fleet: Fleet = new Fleet(
    {
      ...{ store, clock, randomId: randomUUID, log, groups: knownGroups },
      load: (): ReceiverLoad => ({
        machines: registry.sessions.length,
        bytesPerSecond: ingested.rate(registry.machines.reduce((sum, machine) => sum + machine.receivedBytes, 0)),
      }),
    },
    { id, name, addresses, program, weight: config.fleet.weight, heartbeatMs: config.fleet.heartbeat },
  );
  const { owner } = fleet;
  /** Of machines that nobody writes here: whether their upkeep is this receiver's. */
  const isOurs = async (machine: MachineId): Promise<boolean> =>
    fleet.isOurs(machine, await loadHead(store, machine), await loadRecovery(store, machine)).ours;
  const registry: SessionRegistry = new SessionRegistry({
    ...{ store, clock, randomId: randomUUID, log, program, policies, machines, fleet },
  });
  const perMinute = config.fleet.handoversPerMinute;
  const handovers = new Handovers({ store, clock, random: Math.random, log, fleet, sessions: registry, perMinute });
  const enrollment = new Enrollment({
    store,
    tokens: new TokenStore(config.stateDir, clock),
    ca,
    clock,
    log,
    manifestGeneration: async (machine) => (await loadHead(store, machine))?.generation ?? 0,
  });
  const groups = new GroupService({
    ...{ store, groups: knownGroups, clock, randomId: randomUUID, log },
    member: (machine) => registry.groupMember(machine),
    whereIs: async (machine) => {
      const last = (await loadHead(store, machine))?.owner?.receiver;
      const other = fleet.others.find(({ receiver }) => receiver === last);
      const more = other === undefined ? '' : `; receiver ${other.name} had it last: give the command there`;
      return `its agent is not connected here${more}`;
    },
    isOurs: (group) => fleet.isGroupOurs(group),
  });
  const { failover } = config;
  const engine = new FailoverEngine(
    realParts({
      store,
      clock,
      randomId: randomUUID,
      log,
      home: registry.homeAgents,
      machines,
      owner,
      fleet,
      intervalMs: failover.interval,
      cacheBytesMax: failover.cacheBytes,
      env: { ...process.env, AFTERIMAGE_QEMU_ACCEL: failover.accel },
    }),
    {
      receiver: id,
      receiverName: name,
      folder: failover.folder ?? join(config.stateDir, 'copies'),
      provider: failover.provider,
      hydrate: failover.hydrate.enabled ? { bytesPerSecond: failover.hydrate.rate ?? null } : null,
    },
  );
  const upkeep = new UpkeepService(
    {
      ...{ store, clock, randomId: randomUUID, log, machines },
      ...{ isOurs, owner },
      policyOf: async ({ machine }) => ((await loadPolicy(store, machine.id))?.policy ?? config.policy).retention,
    },
    {
      intervalMs: config.upkeep.interval,
      bytesPerSecond: config.upkeep.rate,
      deletionDelayMs: config.upkeep.deletionDelay,
      bases: { readAmplification: config.upkeep.readAmplification },
    },
  );
  const mending = new Mending({
    ...{ store, beneath: uncached, clock, log },
    bytesPerSecond: config.scrub.rate,
    ownerOf: (machine) => upkeep.ownerOf(machine),
    // Of a machine that runs here its copy is the source.
    resend: (...asked) => engine.resend(...asked) ?? registry.homeAgents.resend(...asked),
    wholeCopy: (machine) => engine.wholeCopy(machine),
  });
  const mend = (machine: MachineId): ReturnType<Mending['mend']> => mending.mend(machine, signal);
  // Before anything is done: a second receiver on this host ends here, and must not have gone on with the jobs of the first.
  const control = await startControlServer({
    socketPath: config.controlSocket,
    service: engine,
    upkeep,
    mend,
    groups,
    log,
  });
  // Guests may be waiting for their disks: first of all. A store that doesn't answer must not keep agents out.
  const resuming = engine.start().catch((error: unknown) => {
    log.error({ err: error }, 'not every machine that runs here could be resumed');
  });
  const metrics = receiverMetrics(
    () => registry.machines,
    () => process.memoryUsage.rss(),
    () => engine.figures,
    () => upkeep.status,
  );
  const scrub = new ScrubTask({
    // What the store really holds: a healthy copy would hide that an object is damaged.
    store: uncached,
    clock,
    log,
    random: Math.random,
    settings: {
      enabled: config.scrub.enabled,
      bytesPerSecond: config.scrub.rate,
      everyMs: config.scrub.every,
      prove: config.scrub.prove,
    },
    isOurs,
    repair: (machine, ended) => mending.mend(machine, ended),
  });
  scrubMetrics(metrics, () => scrub.figures);
  const owned = (): number =>
    registry.machines.filter(({ connected, mode }) => connected && mode === 'replicate').length +
    engine.figures.copies.filter((copy) => copy.isReplicating).length;
  fleetMetrics(metrics, () => fleetFigures(fleet, handovers, owned()));
  const scrubbing = scrub.run(signal);
  groupMetrics(metrics, () => groups.figures);
  storeMetrics.register(metrics);
  const status = await startStatusServer({
    listen: config.status,
    log,
    health: () => ({ healthy: true, reasons: [] }),
    status: () => ({
      program,
      store: store.url,
      memory: { residentBytes: process.memoryUsage.rss() },
      caFingerprint: ca.fingerprint,
      fleet: fleetStatus(fleet, handovers, owned(), clock),
      machines: registry.machines,
      scrub: scrub.figures,
      upkeep: upkeep.status,
      groups: groups.figures,
    }),
    metrics: () => metrics,
  });
  const server = await startSessionServer({
    ca,
    listen: config.listen,
    names: config.names,
    authenticate: authenticator(store),
    enroll: enrollHandler(enrollment, clock, log),
    onSession: (peer, transport) => {
      registry.admit(peer, transport).catch((error: unknown) => {
        log.error({ err: error, machine: peer.identity.machine }, 'session failed');
      });
    },
    log,
    clock,
  });
  fleet.start();
  const handing = handovers.run(signal);
  log.info({ host: server.host, port: server.port, status: status.port, store: store.url }, 'receiver is ready');
  notifier.ready();
  notifier.status(`serving ${store.url}`);
  const upkeeping = upkeep.run(signal);
  const grouping = groups.run(signal);
  const watchdog = keepWatchdog(notifier, clock, () => true, signal);
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
  log.info('receiver is stopping');
  notifier.stopping();
  await control.stop();
  await handing;
  await grouping;
  // First of all: the agents' connections are closed next, and others shall take them.
  await fleet.leave();
  await server.stop();
  await registry.settled();
  await upkeeping;
  // Last: guests go on and wait for their disks from here to the next start.
  await engine.stop();
  await resuming;
  await scrubbing;
  await status.stop();
  await store.close();
  await watchdog;
  log.info('receiver has stopped');
}
