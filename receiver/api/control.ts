/**
 * The receiver's control socket: what operators ask of machines, as JSON over HTTP on a Unix socket that only its owner may use.
 * Validates what comes in and hands it to the recovery service; decides nothing. `cli/control-client.ts` is the other end.
 */
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { usageError } from '../../shared/errors.js';
import { localApp } from '../../shared/http/app.js';
import { listenApp } from '../../shared/http/listen.js';
import type { Logger } from '../../shared/log.js';
import { asMachineId, isUuid, type MachineId } from '../../shared/units.js';
import type { DamageItem } from '../catalog/damage.js';
import type { GroupService } from '../groups/group-service.js';
import type { RecoveryService } from '../failover/operations.js';
import { othersHave, type UpkeepService } from '../upkeep/service.js';
import { parseGroupPoint, parseOperation, parseUpkeepTasks } from './parse-operation.js';

export interface ControlServerOptions {
  readonly socketPath: string;
  readonly service: RecoveryService;
  readonly upkeep?: Pick<UpkeepService, 'runNow'>;
  /** Mends what the scrub has marked; null: another receiver has the machine. */
  readonly mend?: (machine: MachineId) => Promise<readonly DamageItem[] | null>;
  readonly groups?: Pick<GroupService, 'pointNow'>;
  readonly log: Logger;
}

interface MachineParams {
  readonly id: string;
}

interface JobParams extends MachineParams {
  readonly job: string;
}

export async function startControlServer(options: ControlServerOptions): Promise<{ stop(): Promise<void> }> {
  const { socketPath, log } = options;
  await mkdir(dirname(socketPath), { recursive: true, mode: 0o700 });
  return listenApp(() => localApp(log, (app) => addRoutes(app, options)), { socketPath }, log);
}

function addRoutes(app: FastifyInstance, { service, upkeep, mend, groups }: ControlServerOptions): void {
  app.get('/v1/machines', async () => ({ machines: await service.list() }));
  app.get<{ Params: MachineParams }>('/v1/machines/:id', async ({ params }) => service.view(machineOf(params)));
  app.get<{ Params: JobParams }>('/v1/machines/:id/jobs/:job', async ({ params }) =>
    service.job(machineOf(params), uuidOf(params.job, 'a job')),
  );
  app.post<{ Params: MachineParams }>('/v1/machines/:id/operations', async (request, reply) => {
    const job = await service.begin(machineOf(request.params), parseOperation(request.body));
    return reply.code(202).send(job);
  });
  if (upkeep !== undefined) {
    app.post<{ Params: MachineParams }>('/v1/machines/:id/upkeep', async (request) => ({
      results: await upkeep.runNow(machineOf(request.params), parseUpkeepTasks(request.body)),
    }));
  }
  if (groups !== undefined) addGroupRoutes(app, groups);
  if (mend !== undefined) {
    app.post<{ Params: MachineParams }>('/v1/machines/:id/repair', async ({ params }) => {
      const machine = machineOf(params);
      const items = await mend(machine);
      if (items === null) throw othersHave(machine);
      return { items };
    });
  }
}

function addGroupRoutes(app: FastifyInstance, groups: Pick<GroupService, 'pointNow'>): void {
  app.post<{ Params: { readonly name: string } }>('/v1/groups/:name/points', async (request) => {
    const { label } = parseGroupPoint(request.body);
    return groups.pointNow(request.params.name, label ?? null);
  });
}

const machineOf = (params: MachineParams): MachineId => asMachineId(uuidOf(params.id, 'a machine'));

function uuidOf(text: string, what: string): string {
  if (isUuid(text)) return text;
  throw usageError(`"${text.slice(0, 100)}" is not the id of ${what}`, 'Give the whole UUID, in lower case.');
}
