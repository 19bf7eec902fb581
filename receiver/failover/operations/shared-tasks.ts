/**
 * Tasks that several operations have in common: from the choice of a point to the boot check.
 */
import { AfterimageError } from '../../../shared/errors.js';
import { CLOSE } from '../../../shared/wire/close-codes.js';
import { CALL_OVER_MS } from '../../../shared/limits-fleet.js';
import { formatDuration } from '../../../shared/units.js';
import { writeCheck } from '../../catalog/recovery-records.js';
import { loadLaunchSettings } from '../../catalog/recovery-io.js';
import type { RecoveryPoint } from '../../catalog/manifest.js';
import { MachineReader } from '../../catalog/reader.js';
import { disksOfCopy, type Instance } from '../../catalog/recovery.js';
import { checkContinues, choosePoint, isNewest } from '../choose-point.js';
import type { Copy } from '../copy.js';
import { specOf } from '../copy-file.js';
import { withData, type RecoveryContent } from '../jobs.js';
import type { OperationRequest } from '../operations.js';
import { askOwner } from '../ownership.js';
import { receiverText } from '../states.js';
import { takeGeneration } from '../take-generation.js';
import { recorded, recordedNumber, type TaskContext, type TaskDefinition } from '../task.js';

/** A longer detail would not be taken into the job. */
const TASK_DETAIL_CHARS_MAX = 2_000;

export const PREREQUISITES = 'Prerequisites check';

type StartRequest = Extract<OperationRequest, { point: string }>;
const startRequest = (context: TaskContext): StartRequest => context.request as StartRequest;

/** The copy that a job is about: a new one of this id. */
export async function instanceFor(
  context: TaskContext,
  kind: Instance['kind'],
  point: RecoveryPoint,
  generation: number,
): Promise<Instance> {
  const { parts, settings, job } = context;
  const { provider, bootCheck } = startRequest(context);
  const launch = await loadLaunchSettings(parts.store, context.machine);
  return {
    id: recorded(job, 'instance'),
    kind,
    receiver: settings.receiver,
    receiverName: settings.receiverName,
    provider: provider ?? launch.provider ?? settings.provider,
    point: point.number,
    generation,
    createdAtMs: parts.clock.nowMs(),
    settings: bootCheck === undefined ? launch : { ...launch, bootCheck },
    disks: disksOfCopy(point.disks),
    bootCheck: null,
    rtoMs: null,
  };
}

/** What would keep the guest from being started here; throws all of it. */
export async function checkProvider(context: TaskContext, kind: Instance['kind']): Promise<string> {
  const { parts, settings } = context;
  const { manifest } = await MachineReader.open(parts.store, context.machine);
  const newest = manifest.tail.points.at(-1);
  if (newest === undefined) {
    throw new AfterimageError('there is no recovery point yet', { code: 'machine-empty', kind: 'refused' });
  }
  const instance = await instanceFor(context, kind, newest, manifest.generation);
  const { id, name, description } = manifest.machine;
  const file = { machine: { id, name }, description, instance, fate: 'kept' as const };
  const spec = specOf(settings.folder, file, (path, exported) => parts.nbdUri(path, exported));
  const running = kind === 'failover' ? context.content.failover : null;
  const replaced = running?.receiver === settings.receiver ? await context.copies.fileOf(running.id) : null;
  const problems = await parts
    .provider(instance.provider)
    .problems(
      spec,
      replaced === null ? null : specOf(settings.folder, replaced, (path, name) => parts.nbdUri(path, name)),
    );
  if (problems.length === 0) return `provider ${instance.provider} can start it here`;
  throw new AfterimageError(`it can not be started here: ${problems.join('; ')}`, {
    code: 'provider-problems',
    kind: 'refused',
    hint: 'Change the launch settings or this host, or choose another provider.',
  });
}

/** Another receiver that has the copy is asked whether it lives; throws when it does. */
export async function checkOwner(context: TaskContext, instance: Instance | null): Promise<string> {
  const { parts, settings } = context;
  if (instance === null || instance.receiver === settings.receiver) return '';
  const { receiverName: name } = instance;
  context.progress(`asking receiver ${name} whether it lives`);
  const answer = await askOwner(parts, settings, context.machine, instance.receiver, context.signal);
  if (answer === null)
    return `receiver ${name}, where the machine ran, did not answer: it is fenced by the next generation`;
  const found = parts.fleet?.others.find(({ receiver }) => receiver === instance.receiver);
  throw new AfterimageError(`the machine runs at receiver ${name}, which lives`, {
    code: 'owner-alive',
    kind: 'refused',
    hint: `Give the command on the host of ${found === undefined ? `receiver ${name}` : receiverText(found)}.`,
  });
}

/** `continues`: points will be added to the chain from it. */
export const processLatest = (continues: boolean): TaskDefinition => ({
  name: 'Process latest',
  run: async (context) => {
    const planned = context.job.data['finalPoint'];
    const words = typeof planned === 'number' ? { point: String(planned) } : startRequest(context);
    const { view, point } = await choosePoint(context.parts, context.machine, words, context.signal);
    if (typeof planned === 'number') await mustBeWhole(view, point.number, 'the last cut');
    if (continues) await checkContinues(view, point);
    const when = new Date(point.cutAtMs).toISOString();
    const concerns = view.concerns.map((concern) => `; ${concern}`).join('');
    return {
      detail: `point ${point.number} of ${when}, ${point.consistency}-consistent${concerns}`.slice(
        0,
        TASK_DETAIL_CHARS_MAX,
      ),
      data: { point: point.number },
    };
  },
});

/** A point is found by its number also when it is damaged; the last cut of a planned failover is all that there is, and no older one may stand in for it. */
export async function mustBeWhole(view: MachineReader, point: number, what: string): Promise<void> {
  const damage = await view.damageAt(point);
  if (damage === undefined) return;
  throw new AfterimageError(`point ${point}, ${what}, needs what is damaged: ${damage.what}`, {
    code: 'last-cut-damaged',
    kind: 'refused',
    hint: 'Nothing was failed over. Have it mended first (`afterimage damage NAME`, `afterimage repair NAME`), or fail over to an older point without a plan.',
  });
}

/**
 * From here home may not write: first it is recorded that it is refused, then the generation is raised, then its session is cut off. A crash between
 * two of these leaves nobody who may write, never two.
 */
export const takeOverGeneration: TaskDefinition = {
  name: 'Take over generation',
  run: async (context) => {
    const { parts, settings, machine } = context;
    if (context.job.data['expectedGeneration'] === undefined) {
      const view = await MachineReader.open(parts.store, machine);
      const { generation } = view.manifest;
      const point = await view.findPoint({ by: 'number', number: recordedNumber(context.job, 'point') });
      const failover = await instanceFor(context, 'failover', point, generation + 1);
      await context.update((content) => ({
        ...content,
        // Disks that a restore has written are not home's own any more: it goes on restoring, which commits nothing either.
        home:
          content.home.mode === 'restore'
            ? content.home
            : { mode: 'refused', reason: `failed over to receiver ${settings.receiverName}` },
        failover,
        job: content.job && withData(content.job, { passed: true, expectedGeneration: generation }),
      }));
    }
    const expected = recordedNumber(context.job, 'expectedGeneration');
    const generation = await takeGeneration(parts, machine, context.job.id, expected);
    await parts.home.disconnect(machine, CLOSE.failedOver, `failed over to receiver ${settings.receiverName}`);
    callAway(context);
    const point = await newestNow(context);
    const note = noteOf(point.number, recordedNumber(context.job, 'point'));
    return {
      detail: `generation ${generation}${note}`,
      data: { point: point.number },
      change: (content) =>
        withCopy(content, 'failover', { generation, point: point.number, disks: disksOfCopy(point.disks) }),
    };
  },
};

function noteOf(point: number, chosen: number): string {
  if (point === chosen) return '';
  return point > chosen
    ? `; point ${point} came meanwhile and is used`
    : `; point ${point} is used, since something that newer ones need was found damaged meanwhile`;
}

/** Home's agent may be at another receiver: with nothing to commit it would not learn for minutes that it is failed over. Here it is refused, and told. */
function callAway({ parts, machine, signal }: TaskContext): void {
  const release = parts.fleet?.call(machine);
  if (release !== undefined) void parts.clock.sleep(CALL_OVER_MS, signal).then(release);
}

/** Points that home committed between the choice and the takeover count too, when the newest was asked for. Of a planned one there are none: it has all. */
async function newestNow(context: TaskContext): Promise<RecoveryPoint> {
  const { parts, machine, job } = context;
  const chosen = recordedNumber(job, 'point');
  const view = await MachineReader.open(parts.store, machine);
  const request = startRequest(context);
  const isFixed = job.operation === 'change-point' || typeof job.data['finalPoint'] === 'number';
  if (isFixed || !isNewest(request.point)) return view.findPoint({ by: 'number', number: chosen });
  try {
    const { view: at, point } = await choosePoint(parts, machine, request, context.signal);
    await checkContinues(at, point);
    return point;
  } catch (error) {
    // Damaged, of other disks, or without a disk that the chosen one has.
    if (!(error instanceof AfterimageError && ['corrupt', 'refused', 'usage'].includes(error.kind))) throw error;
    context.say(`a newer point can not be used, so point ${chosen} is: ${error.message}`);
    return view.findPoint({ by: 'number', number: chosen });
  }
}

export const instanceOf = (content: RecoveryContent, kind: Instance['kind']): Instance | null =>
  kind === 'test' ? content.testFailover.instance : content.failover;

/** The content with a change of its copy. */
export function withCopy(content: RecoveryContent, kind: Instance['kind'], change: Partial<Instance>): RecoveryContent {
  const { failover, testFailover } = content;
  if (kind === 'failover') return failover === null ? content : { ...content, failover: { ...failover, ...change } };
  const instance = testFailover.instance === null ? null : { ...testFailover.instance, ...change };
  return { ...content, testFailover: { ...testFailover, instance } };
}

/** The copy that this job runs, its volumes open. */
export async function openCopy(context: TaskContext, kind: Instance['kind']): Promise<Copy> {
  const instance = instanceOf(context.content, kind);
  if (instance === null) throw new Error(`job ${context.job.id} has no copy`);
  return context.copies.ensure(context.machine, instance, context.signal);
}

export const prepareDisks = (kind: Instance['kind']): TaskDefinition => ({
  name: 'Prepare disks',
  run: async (context) => {
    if (kind === 'test' && context.content.testFailover.instance === null) {
      const view = await MachineReader.open(context.parts.store, context.machine);
      const point = await view.findPoint({ by: 'number', number: recordedNumber(context.job, 'point') });
      const instance = await instanceFor(context, 'test', point, view.manifest.generation);
      await context.update((content) => ({ ...content, testFailover: { ...content.testFailover, instance } }));
    }
    const copy = await openCopy(context, kind);
    return { detail: copy.spec.disks.map((d) => d.uri).join(' ') };
  },
});

export const startReplication: TaskDefinition = {
  name: 'Start replication',
  run: async (context) => {
    const copy = await openCopy(context, 'failover');
    await copy.startReplication(context.signal);
    return { detail: 'every write of the copy is replicated from now on' };
  },
};

export const startMachine = (kind: Instance['kind']): TaskDefinition => ({
  name: 'Start virtual machine',
  run: async (context) => {
    const copy = await openCopy(context, kind);
    // A job that is resumed here may find its copy open and not yet replicated again.
    if (kind === 'failover') await copy.startReplication(context.signal);
    await copy.start(context);
    await copy.refreshGuest();
    return { detail: `provider ${copy.provider.kind}: ${copy.guest}` };
  },
});

export const bootCheck = (kind: Instance['kind']): TaskDefinition => ({
  name: 'Boot check',
  run: async (context) => {
    const { parts, job, machine } = context;
    const copy = await openCopy(context, kind);
    const state = await copy.provider.state(copy.spec);
    const startedAtMs = state.startedAtMs ?? parts.clock.nowMs();
    const check = copy.instance.settings.bootCheck ?? { type: 'none' };
    const sinceCommand = (endMs: number): number => Math.max(0, Math.round(endMs - job.startedAtMs));
    if (check.type === 'none') {
      const rtoMs = sinceCommand(startedAtMs);
      return {
        state: 'Skipped',
        detail: `none is set; the guest was started ${formatDuration(rtoMs)} after the command`,
        change: (content) => withCopy(content, kind, { rtoMs }),
      };
    }
    const result = await parts.bootCheck(check, copy.provider, copy.spec, startedAtMs, context);
    const rtoMs = sinceCommand(parts.clock.nowMs());
    const { id: instance, point, receiverName } = copy.instance;
    await writeCheck(parts.store, machine, { point, instance, kind, receiverName, result, rtoMs });
    const change = (content: RecoveryContent): RecoveryContent => withCopy(content, kind, { bootCheck: result, rtoMs });
    if (result.passed) return { detail: `${result.detail}; ${formatDuration(rtoMs)} after the command`, change };
    const detail = `the boot check did not pass: ${result.detail}`;
    if (kind === 'failover') return { state: 'Failed', detail, change, data: { bootFailed: detail } };
    // A test that fails is kept for whoever wants to look at it, until it is cleaned up.
    await context.update((content) => {
      const next = change(content);
      return { ...next, job: next.job && withData(next.job, { keepCopy: true }) };
    });
    throw new AfterimageError(detail, {
      code: 'boot-check',
      kind: 'refused',
      hint: 'The test is still there to be looked at; clean it up afterwards.',
    });
  },
});
