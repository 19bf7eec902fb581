/**
 * Provider `command`: a program of the operator starts and ends the guest, on whatever it likes. The contract is in README.md. What the program
 * says is believed as far as it can be: after `start`, `shutdown` and `kill` its own `state` must agree. Errors are never taken for "not running".
 */
import { z } from 'zod';
import type { Clock } from '../../../shared/clock.js';
import { AfterimageError } from '../../../shared/errors.js';
import { COMMAND_LOOK_TIMEOUT_MS, COMMAND_WORK_TIMEOUT_MS } from '../../../shared/limits.js';
import type { CheckContext, ComputeProvider, GuestState, LaunchSpec } from './provider.js';
import { runProgram, type ProgramEnd } from './run-program.js';
import { makeFolder, readStarted, removeFolder, removeStarted, writeStarted } from './started-note.js';

export type CommandAction = 'check' | 'start' | 'state' | 'shutdown' | 'kill' | 'cleanup';

const stateSchema = z.object({
  running: z.boolean(),
  detail: z.string().max(500).optional(),
  startedAtMs: z.number().nonnegative().optional(),
});

/** Limits of its programs, in ms; tests use shorter ones. */
export interface CommandLimits {
  readonly lookMs: number;
  readonly workMs: number;
}

const DEFAULT_LIMITS: CommandLimits = { lookMs: COMMAND_LOOK_TIMEOUT_MS, workMs: COMMAND_WORK_TIMEOUT_MS };

const quiet = (): CheckContext => ({ signal: new AbortController().signal, say: () => undefined });

/** Pure. */
export function commandEnvironment(spec: LaunchSpec, action: CommandAction): Record<string, string> {
  return {
    AFTERIMAGE_ACTION: action,
    AFTERIMAGE_INSTANCE: spec.instance,
    AFTERIMAGE_MACHINE: spec.machine.id,
    AFTERIMAGE_MACHINE_NAME: spec.machine.name,
    AFTERIMAGE_TEST: spec.test ? '1' : '0',
    AFTERIMAGE_POINT: String(spec.point),
    AFTERIMAGE_FOLDER: spec.folder,
  };
}

export class CommandProvider implements ComputeProvider {
  readonly kind = 'command';
  readonly #clock: Clock;
  readonly #limits: CommandLimits;

  constructor(clock: Clock, limits: CommandLimits = DEFAULT_LIMITS) {
    this.#clock = clock;
    this.#limits = limits;
  }

  async problems(spec: LaunchSpec): Promise<readonly string[]> {
    if (spec.settings.command === undefined) return [NO_COMMAND];
    const lines: string[] = [];
    const context = { ...quiet(), say: (line: string) => void lines.push(line) };
    const { problem } = await this.#run(spec, 'check', context, this.#limits.lookMs);
    if (problem === null) return [];
    const said = lines.filter((line) => line.trim() !== '');
    return said.length > 0 ? said : [`${describe(spec, 'check')} failed: ${problem}; it printed no reason`];
  }

  async start(spec: LaunchSpec, context: CheckContext): Promise<void> {
    await makeFolder(spec.folder);
    if ((await this.state(spec)).running) return;
    await this.#mustRun(spec, 'start', context, this.#limits.workMs);
    await writeStarted(spec.folder, this.#clock.nowMs());
    await this.#mustBe(spec, 'start', true);
  }

  async state(spec: LaunchSpec): Promise<GuestState> {
    const said: string[] = [];
    const context = { ...quiet(), say: (line: string) => void said.push(line) };
    const end = await this.#run(spec, 'state', context, this.#limits.lookMs, {}, true);
    if (end.problem !== null) throw failure(spec, 'state', end.problem, said.at(-1));
    let parsed;
    try {
      parsed = stateSchema.parse(JSON.parse(end.answer));
    } catch (cause) {
      throw new AfterimageError(`${describe(spec, 'state')} printed no state: ${end.answer.slice(0, 200)}`, {
        code: 'command-answer',
        kind: 'io',
        hint: 'It has to print one JSON object such as {"running":true,"detail":"on host3"} on stdout, and all else on stderr.',
        cause,
      });
    }
    return {
      running: parsed.running,
      detail: parsed.detail ?? (parsed.running ? 'running' : 'not running'),
      startedAtMs: parsed.startedAtMs ?? (await readStarted(spec.folder)),
    };
  }

  async shutdown(
    spec: LaunchSpec,
    { timeoutMs, force, ...context }: { timeoutMs: number; force: boolean } & CheckContext,
  ): Promise<'clean' | 'forced' | 'not-running'> {
    if (!(await this.state(spec)).running) return 'not-running';
    const env = { AFTERIMAGE_TIMEOUT_SECONDS: String(Math.ceil(timeoutMs / 1000)) };
    const { problem } = await this.#run(spec, 'shutdown', context, timeoutMs, env);
    const state = await this.state(spec);
    if (problem === null && !state.running) return 'clean';
    const why = problem ?? `its state is still: ${state.detail}`;
    if (context.signal.aborted) {
      throw new AfterimageError('the shutdown was cancelled', { code: 'cancelled', kind: 'cancelled' });
    }
    if (!force) throw failure(spec, 'shutdown', why);
    context.say(`the guest was not shut down (${why}): ending it`);
    await this.kill(spec, context);
    return 'forced';
  }

  async kill(spec: LaunchSpec, context: CheckContext): Promise<void> {
    await this.#mustRun(spec, 'kill', context, this.#limits.workMs);
    await this.#mustBe(spec, 'kill', false);
    await removeStarted(spec.folder);
  }

  async cleanup(spec: LaunchSpec, context: CheckContext): Promise<void> {
    await this.#mustRun(spec, 'cleanup', context, this.#limits.workMs);
    await removeFolder(spec.folder);
  }

  #run(
    spec: LaunchSpec,
    action: CommandAction,
    context: CheckContext,
    timeoutMs: number,
    env: Readonly<Record<string, string>> = {},
    answer = false,
  ): Promise<ProgramEnd> {
    const { command } = spec.settings;
    if (command === undefined) {
      throw new AfterimageError(NO_COMMAND, {
        code: 'no-command',
        kind: 'usage',
        hint: 'See afterimage launch-settings.',
      });
    }
    return runProgram(this.#clock, {
      ...context,
      command: [...command, action],
      env: { ...commandEnvironment(spec, action), ...env },
      input: `${JSON.stringify(spec)}\n`,
      timeoutMs,
      answer,
    });
  }

  async #mustRun(spec: LaunchSpec, action: CommandAction, context: CheckContext, timeoutMs: number): Promise<void> {
    const { problem } = await this.#run(spec, action, context, timeoutMs);
    if (problem === null) return;
    if (context.signal.aborted) {
      throw new AfterimageError(`${describe(spec, action)} was cancelled`, { code: 'cancelled', kind: 'cancelled' });
    }
    throw failure(spec, action, problem);
  }

  async #mustBe(spec: LaunchSpec, action: CommandAction, running: boolean): Promise<void> {
    const state = await this.state(spec);
    if (state.running === running) return;
    throw failure(spec, action, `it ended with 0, but its state says: ${state.detail}`);
  }
}

const NO_COMMAND = 'provider `command` needs a program: set `command` in the launch settings';

const describe = (spec: LaunchSpec, action: CommandAction): string =>
  `${(spec.settings.command ?? []).join(' ')} ${action}`;

const failure = (spec: LaunchSpec, action: CommandAction, problem: string, lastWords?: string): AfterimageError =>
  new AfterimageError(
    `${describe(spec, action)} failed: ${problem}${lastWords === undefined ? '' : ` (${lastWords.slice(0, 200)})`}`,
    {
      code: `command-${action}`,
      kind: 'io',
      hint: 'See what it printed, correct it, and repeat: each of its actions may be run again.',
    },
  );
