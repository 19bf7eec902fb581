/**
 * What has to be done for a point that is asked to be more than crash-consistent, on this machine as it is now: its levels, strongest first, each with what
 * reaches it or why it can't be reached. And what an agent that died while applications were quiesced has left to undo.
 */
import { join } from 'node:path';
import type { Clock } from '../../shared/clock.js';
import type { Logger } from '../../shared/log.js';
import { APPLICATION_LOCK_MARGIN_MS, QUIESCE_GRACE_MS } from '../../shared/limits-quiesce.js';
import { boundedRecord, type QuiesceRecord } from '../../shared/wire/quiesce-record.js';
import type { AgentConfig } from '../config.js';
import type { AskedLevel, CutContext } from '../cycle/cut.js';
import type { AskedPoint, GroupPart } from '../cycle/machine-cycle.js';
import { configuredApplications } from './applications/configured.js';
import { findHooks, type HookFiles } from './hooks/hook-files.js';
import type { MountedFilesystem } from './mounts.js';
import { PointQuiesce } from './point-quiesce.js';
import { isAtWork, readNote, removeNote } from './runner/note.js';
import type { QuiesceTask } from './runner/protocol.js';
import { QuiesceRunner, type RunnerOptions } from './runner/runner.js';

export type Consistency = 'crash' | 'filesystem' | 'application';

export interface PointRequest {
  readonly consistency: Consistency;
  readonly label: string | null;
  /** To be made together with other machines: of this consistency, or it is not one of the group. */
  readonly group?: GroupPart;
}

export interface AskedDeps {
  readonly config: AgentConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly randomId: () => string;
}

/** How often a process that undoes things is looked at. */
const NOTE_POLL_MS = 200;

export const notePathOf = (config: AgentConfig): string => join(config.stateDir, 'quiesce.json');

export interface AskedOfMachine extends AskedPoint {
  /** Of an application-consistent point that is tried. */
  readonly quiesce: PointQuiesce | null;
}

/** `freeze`: the filesystems' part, as for the fallback of a crash-consistent cut. */
export function askedPoint(
  request: PointRequest,
  freeze: CutContext['quiesce'],
  filesystems: readonly MountedFilesystem[],
  deps: AskedDeps,
): AskedOfMachine {
  const asked = levelsOf(request, freeze, filesystems, deps);
  if (request.group === undefined) return asked;
  return { ...asked, levels: asked.levels.slice(0, 1), group: request.group };
}

function levelsOf(
  request: PointRequest,
  freeze: CutContext['quiesce'],
  filesystems: readonly MountedFilesystem[],
  deps: AskedDeps,
): AskedOfMachine {
  const { label } = request;
  if (request.consistency === 'crash') return { label, levels: [], record: async () => null, quiesce: null };
  const filesystem: AskedLevel = { level: 'filesystem', ...freeze };
  const paths = filesystems.map(pathOf);
  if (request.consistency === 'filesystem') {
    const record = async (weaker: string) => emptyRecord('filesystem', paths, weaker);
    return { label, levels: [filesystem], record, quiesce: null };
  }
  const why = whyNotApplications(deps.config, freeze);
  if (why !== null) {
    const record = async (weaker: string) => emptyRecord('application', paths, weaker);
    return { label, levels: [{ level: 'application', unavailable: why }, filesystem], record, quiesce: null };
  }
  const task = taskOf(request, filesystems, deps);
  const quiesce = new PointQuiesce({
    freeze: (freeze as { use: PointQuiesce }).use,
    start: () => QuiesceRunner.start(task, { clock: deps.clock }),
    filesystems: paths,
    clock: deps.clock,
    log: deps.log,
  });
  const levels: AskedLevel[] = [{ level: 'application', use: quiesce }, filesystem];
  return { label, levels, record: (weaker) => quiesce.record(weaker), quiesce };
}

const pathOf = (filesystem: MountedFilesystem): string => filesystem.mounts[0]?.path ?? filesystem.source;

const emptyRecord = (asked: QuiesceRecord['asked'], filesystems: readonly string[], weaker: string): QuiesceRecord =>
  boundedRecord({
    asked,
    weaker,
    totalMs: 0,
    heldMs: 0,
    filesystems: [...filesystems],
    applications: [],
    hooks: [],
  });

function whyNotApplications(config: AgentConfig, freeze: CutContext['quiesce']): string | null {
  if ('unavailable' in freeze) return freeze.unavailable;
  const { hooks, refused } = findHooks(config.hooks);
  const [bad] = refused;
  // Who put it there counts on it.
  if (bad !== undefined) return `hook ${bad.name} is not run: ${bad.why}`;
  if (hooks.length === 0 && configuredApplications(config.applications).length === 0)
    return 'no application is configured and there is no hook';
  return null;
}

function taskOf(request: PointRequest, filesystems: readonly MountedFilesystem[], deps: AskedDeps): QuiesceTask {
  const { config, clock, randomId } = deps;
  const paths = filesystems.map(pathOf);
  const label = request.label ?? `afterimage ${new Date(clock.nowMs()).toISOString()}`;
  return {
    id: randomId(),
    label: cutToBytes(label, 63),
    applications: config.applications,
    hooks: findHooks(config.hooks).hooks,
    variables: {
      AFTERIMAGE_LABEL: request.label ?? '',
      AFTERIMAGE_CONSISTENCY: request.consistency,
      AFTERIMAGE_FILESYSTEMS: paths.join(':'),
    },
    deadlineMs: config.applicationPoints.deadline,
    // From before the freeze until after the thaw, whose own limit is the freeze's.
    heldMs: config.freeze.deadline + APPLICATION_LOCK_MARGIN_MS,
    frozen: { devices: filesystems.map(({ device }) => device), paths },
    notePath: notePathOf(config),
  };
}

/** PostgreSQL takes names of 63 bytes; a letter is never cut in two. */
function cutToBytes(text: string, bytesMax: number): string {
  const bytes = Buffer.from(text);
  // The byte after the cut must begin a letter.
  let end = Math.min(bytesMax, bytes.length);
  while (end < bytes.length && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.toString('utf8', 0, end);
}

/** Calls hooks with `abort` that an earlier agent has begun and nobody has ended. Resolves when none is held back, or none could be let go. */
export async function undoLeftovers(deps: AskedDeps, options: Omit<RunnerOptions, 'clock'> = {}): Promise<void> {
  const { config, clock, log } = deps;
  const path = notePathOf(config);
  const limitMs = config.applicationPoints.deadline + QUIESCE_GRACE_MS;
  const endMs = clock.monotonicMs() + limitMs;
  let note = readNote(path);
  // Its process outlives the agent, and undoes everything by itself.
  while (note !== null && note !== 'all' && isAtWork(note) && clock.monotonicMs() < endMs) {
    await clock.sleep(NOTE_POLL_MS);
    note = readNote(path);
  }
  if (note === null) return;
  const files: HookFiles = findHooks(config.hooks);
  const names = files.hooks.map(({ name }) => name).filter((name) => note === 'all' || note.hooks.includes(name));
  log.warn({ hooks: names }, 'the agent ended while applications were quiesced: hooks are called with `abort`');
  const asked = taskOf({ consistency: 'application', label: null }, [], deps);
  const task = { ...asked, id: note === 'all' ? asked.id : note.id, hooks: files.hooks };
  const end = names.length === 0 ? null : await QuiesceRunner.undo(task, names, { clock, ...options });
  if (end !== null && end.is !== 'ended')
    log.error({ hooks: names }, `hooks could not be called: ${end.exit}; call them with \`abort\` by hand`);
  else removeNote(path);
}
