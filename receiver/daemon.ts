/**
 * The receiver's process: opens CA and store, serves sessions and the status endpoint, tells systemd, stops cleanly on a signal.
 * Holds no state that can't be thrown away: everything is in the store, but for the CA and unused tokens.
 */
import { randomUUID } from 'node:crypto';
import { systemClock } from '../shared/clock.js';
import { startStatusServer } from '../shared/http/status-server.js';
import { createLogger } from '../shared/log.js';
import { createNotifier, keepWatchdog } from '../shared/sd-notify.js';
import { VERSION } from '../shared/version.js';
import { loadHead } from './catalog/reader.js';
import type { ReceiverConfig } from './config.js';
import { receiverMetrics } from './metrics.js';
import { openAuthority } from './session/ca.js';
import { enrollHandler } from './session/enroll-http.js';
import { Enrollment } from './session/enroll.js';
import { authenticator } from './session/identity.js';
import { SessionRegistry } from './session/registry.js';
import { startSessionServer } from './session/server.js';
import { TokenStore } from './session/tokens.js';
import { openStore } from './store/open.js';

export async function runReceiver(config: ReceiverConfig, signal: AbortSignal): Promise<void> {
  const clock = systemClock;
  const log = createLogger('afterimage-receiver', config.log.level);
  const program = `afterimage-receiver ${VERSION}`;
  const notifier = createNotifier();
  const ca = await openAuthority(config.stateDir, clock);
  const store = await openStore(config.store, { clock, create: true });
  const registry = new SessionRegistry({ store, clock, randomId: randomUUID, log, program });
  const enrollment = new Enrollment({
    store,
    tokens: new TokenStore(config.stateDir, clock),
    ca,
    clock,
    log,
    manifestGeneration: async (machine) => (await loadHead(store, machine))?.generation ?? 0,
  });
  const metrics = receiverMetrics(
    () => registry.machines,
    () => process.memoryUsage.rss(),
  );
  const status = await startStatusServer({
    listen: config.status,
    log,
    health: () => ({ healthy: true, reasons: [] }),
    status: () => ({
      program,
      store: store.url,
      memory: { residentBytes: process.memoryUsage.rss() },
      caFingerprint: ca.fingerprint,
      machines: registry.machines,
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
  log.info({ host: server.host, port: server.port, status: status.port, store: store.url }, 'receiver is ready');
  notifier.ready();
  notifier.status(`serving ${store.url}`);
  const watchdog = keepWatchdog(notifier, clock, () => true, signal);
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
  log.info('receiver is stopping');
  notifier.stopping();
  await server.stop();
  await registry.settled();
  await status.stop();
  await store.close();
  await watchdog;
  log.info('receiver has stopped');
}
