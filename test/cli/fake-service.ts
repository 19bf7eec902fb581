/** A recovery service without machines behind it: remembers what it was asked, answers what it was told to. */
import { AfterimageError } from '../../shared/errors.js';
import { asMachineId, type MachineId } from '../../shared/units.js';
import { OPERATIONS, type Job, type Operation, type Recovery, type Task } from '../../receiver/catalog/recovery.js';
import type { OperationRequest, RecoveryService, RecoveryView } from '../../receiver/failover/operations.js';

export const WEB = asMachineId('11111111-2222-4333-8444-555555555555');
export const DB = asMachineId('99999999-2222-4333-8444-555555555555');
export const JOB_ID = 'abcdef01-2222-4333-8444-555555555555';
const RECEIVER = 'dddddddd-2222-4333-8444-555555555555';
const INSTANCE = 'eeeeeeee-2222-4333-8444-555555555555';
export const T0 = 1_700_000_000_000;

export const task = (name: string, state: Task['state'], more: Partial<Task> = {}): Task => ({
  name,
  state,
  startedAtMs: state === 'Pending' ? null : T0,
  endedAtMs: state === 'Pending' || state === 'Started' ? null : T0 + 1500,
  detail: '',
  output: [],
  ...more,
});

export const jobOf = (operation: Operation, state: Job['state'], tasks: Task[], more: Partial<Job> = {}): Job => ({
  id: JOB_ID,
  operation,
  state,
  receiver: RECEIVER,
  startedAtMs: T0,
  endedAtMs: state === 'InProgress' ? null : T0 + 3000,
  request: {},
  data: {},
  tasks,
  error: null,
  ...more,
});

export const recoveryOf = (more: Partial<Recovery> = {}): Recovery => ({
  version: 1,
  number: 3,
  writeId: 'w',
  writtenAtMs: T0,
  machine: WEB,
  state: 'UnplannedFailoverCompleted',
  stateReason: '',
  activeLocation: 'Recovery',
  failover: {
    id: INSTANCE,
    kind: 'failover',
    receiver: RECEIVER,
    receiverName: 'dr1',
    provider: 'qemu',
    point: 40,
    generation: 2,
    createdAtMs: T0,
    settings: {},
    disks: [],
    bootCheck: { type: 'tcp', passed: true, detail: 'port 22 answered', tookMs: 3000, atMs: T0 },
    rtoMs: 12_300,
  },
  testFailover: { state: 'None', instance: null },
  home: { mode: 'refused', reason: 'the machine is failed over' },
  job: null,
  jobs: [],
  ...more,
});

export const viewOf = (id: MachineId, name: string, more: Partial<RecoveryView> = {}): RecoveryView => ({
  machine: { id, name },
  lastPoint: 42,
  generation: 1,
  recovery: null,
  allowedOperations: OPERATIONS.map((operation) => ({ operation, allowed: true, reason: '' })),
  instances: [],
  homeAgent: 'replicating',
  homeAt: null,
  ...more,
});

/** A machine that runs here after a failover, with a disk. */
export const failedOver = (more: Partial<RecoveryView> = {}): RecoveryView =>
  viewOf(WEB, 'web1', {
    recovery: recoveryOf(),
    generation: 2,
    homeAgent: null,
    allowedOperations: [
      { operation: 'commit', allowed: true, reason: '' },
      { operation: 'change-point', allowed: true, reason: '' },
      { operation: 'failover', allowed: false, reason: 'the machine is failed over already' },
    ],
    instances: [
      {
        id: INSTANCE,
        guest: 'running',
        disks: [
          {
            disk: 'root',
            uri: 'nbd+unix:///root?socket=/run/a.sock',
            sizeBytes: 2 ** 30,
            localBytes: 2 ** 20,
            hydratedPercent: 12.7,
            changedBytes: 4096,
          },
        ],
        dataAtRisk: { seconds: 3, bytes: 4096 },
        lastPoint: 43,
        problem: null,
      },
    ],
    ...more,
  });

export class FakeService implements RecoveryService {
  views: RecoveryView[] = [viewOf(WEB, 'web1'), viewOf(DB, 'db1')];
  /** What begin() and then each job() answers; the last is repeated. */
  steps: (Job | Error)[] = [];
  readonly begun: { machine: MachineId; request: OperationRequest }[] = [];
  refusal: Error | null = null;

  async list(): Promise<readonly RecoveryView[]> {
    return this.views;
  }

  async view(machine: MachineId): Promise<RecoveryView> {
    const found = this.views.find((v) => v.machine.id === machine);
    if (found !== undefined) return found;
    throw new AfterimageError(`no machine ${machine}`, { code: 'machine-unknown', kind: 'not-found' });
  }

  async begin(machine: MachineId, request: OperationRequest): Promise<Job> {
    if (this.refusal !== null) throw this.refusal;
    this.begun.push({ machine, request });
    return this.#next();
  }

  async job(_machine: MachineId, id: string): Promise<Job> {
    if (id !== JOB_ID) throw new AfterimageError(`no job ${id}`, { code: 'job-unknown', kind: 'not-found' });
    return this.#next();
  }

  #next(): Job {
    const step = this.steps.length > 1 ? this.steps.shift() : this.steps[0];
    if (step === undefined) throw new Error('the fake has no job');
    if (step instanceof Error) throw step;
    return step;
  }
}
