/**
 * The agent's process: the machine, the status endpoint, the control socket, systemd. Stops cleanly on a signal; on a crash the pinned
 * maps keep tracking and the hash stores recover from their journals.
 */
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../shared/clock.js';
import { startStatusServer, type Health } from '../shared/http/status-server.js';
import { createLogger } from '../shared/log.js';
import { DISKS_LET_GO_MS } from '../shared/limits-disks.js';
import { createNotifier, keepWatchdog } from '../shared/sd-notify.js';
import { usageError } from '../shared/errors.js';
import { VERSION } from '../shared/version.js';
import { labelSchema } from '../shared/wire/quiesce-record.js';
import { CONTROL } from './client.js';
import type { AgentConfig } from './config.js';
import { letGoWithin } from './let-go.js';
import { AgentMachine } from './machine.js';
import { realParts } from './machine-parts.js';
import { agentMetrics } from './metrics.js';
import { frozenNotePath, thawLeftovers } from './quiesce/frozen-note.js';
import { takeNotes } from './reboot/notes-folder.js';
import { requireCredentials } from './session/credentials.js';

const pointRequestSchema = z.strictObject({
  consistency: z.enum(['crash', 'filesystem', 'application']),
  label: labelSchema.nullable(),
});

export async function runAgent(config: AgentConfig, signal: AbortSignal): Promise<void> {
  const clock = systemClock;
  const log = createLogger('afterimage-agent', config.log.level);
  // Before anything is written: it might be to a filesystem that an earlier agent left frozen.
  await thawLeftovers(frozenNotePath(config.stateDir), config.freeze.deadline, clock, log);
  const credentials = await requireCredentials(config.stateDir);
  const machineLog = log.child({ machine: credentials.machine });
  // What was noted for a reboot is over once an agent runs, whatever boot it was meant for.
  await takeNotes(config.stateDir);
  const machine = new AgentMachine({
    config,
    credentials,
    clock,
    log: machineLog,
    program: `afterimage-agent ${VERSION}`,
    random: Math.random,
    randomId: randomUUID,
    parts: realParts(config, credentials, clock, machineLog),
  });
  const metrics = agentMetrics(() => machine.status.snapshot());
  const endpoints = {
    log,
    health: () => healthOf(machine),
    status: () => ({ ...machine.status.snapshot(), problem: machine.problem }),
    metrics: () => metrics,
  };
  const status = await startStatusServer({ ...endpoints, listen: config.status });
  await mkdir(dirname(config.controlSocket), { recursive: true, mode: 0o700 });
  const control = await startStatusServer({
    ...endpoints,
    listen: { socketPath: config.controlSocket },
    post: {
      [CONTROL.reload]: () => letGoWithin(machine.reload(), DISKS_LET_GO_MS, clock).then(() => ({})),
      [CONTROL.sync]: () => machine.syncNow(),
      [CONTROL.point]: (body) => {
        const request = pointRequestSchema.safeParse(body);
        if (!request.success) throw usageError(`not a point: ${z.prettifyError(request.error)}`);
        return machine.makePoint(request.data);
      },
      [CONTROL.verify]: () => machine.compareAll('asked for by an operator'),
    },
  });
  log.info({ status: status.port, receiver: credentials.receiver, machine: credentials.machine }, 'agent is ready');
  const notifier = createNotifier();
  notifier.ready();
  const watchdog = keepWatchdog(notifier, clock, () => true, signal);
  await machine.run(signal);
  notifier.stopping();
  await control.stop();
  await status.stop();
  await watchdog;
  log.info('agent has stopped');
}

function healthOf(machine: AgentMachine): Health {
  const snapshot = machine.status.snapshot();
  const reasons: string[] = [];
  if (machine.problem !== null) reasons.push(machine.problem);
  if (!snapshot.receiver.connected) reasons.push(snapshot.receiver.reason);
  if (snapshot.finalCut !== null) reasons.push(snapshot.finalCut);
  for (const alert of snapshot.applicationPoints.alerts) reasons.push(alert.reason);
  for (const disk of snapshot.disks) if (disk.state === 'Failed') reasons.push(`${disk.device}: ${disk.reason}`);
  return { healthy: reasons.length === 0, reasons };
}
