/**
 * I/O priority of this process' threads: idle while a sweep reads, as it was at the start for everything else.
 *
 * Reads run on threads of Node's pool, which all kinds of work share, so the priority of all threads is set; a sweep and a cycle never run at the
 * same time. Threads that are made later have that of their maker. Which schedulers of the kernel look at it: BFQ and mq-deadline; with `none`
 * it changes nothing. A crash leaves nothing behind.
 */
import { readdirSync } from 'node:fs';
import { messageOf } from '../../shared/errors.js';
import { check, syscall } from '../../shared/native/libc.js';

const NUMBERS: Readonly<Record<string, { readonly set: number; readonly get: number }>> = {
  x64: { set: 251, get: 252 },
  arm64: { set: 30, get: 31 },
  riscv64: { set: 30, get: 31 },
  loong64: { set: 30, get: 31 },
};
const WHO_PROCESS = 1;
const CLASS_SHIFT = 13;
export const CLASS_IDLE = 3;

export const classOf = (priority: number): number => priority >> CLASS_SHIFT;

/** Threads of this process. */
export const threadIds = (): number[] => readdirSync('/proc/self/task').map(Number);

export function priorityOf(thread: number): number {
  const numbers = NUMBERS[process.arch];
  return numbers === undefined ? 0 : check(syscall(numbers.get, WHO_PROCESS, thread), 'ioprio_get');
}

export class IoPriority {
  readonly #numbers = NUMBERS[process.arch];
  readonly #enabled: boolean;
  readonly #onProblem: (problem: string) => void;
  /** As the unit, or whoever started the process, has set it. */
  readonly #own: number;
  #isIdle = false;
  #problem: string | null = null;

  constructor(enabled: boolean, onProblem: (problem: string) => void) {
    this.#enabled = enabled;
    this.#onProblem = onProblem;
    this.#own = enabled ? (this.#try(() => priorityOf(process.pid)) ?? 0) : 0;
  }

  get status(): string {
    if (this.#problem !== null) return `normal: ${this.#problem}`;
    return this.#isIdle ? 'idle' : 'normal';
  }

  idle(): void {
    this.#set(CLASS_IDLE << CLASS_SHIFT, true);
  }

  normal(): void {
    this.#set(this.#own, false);
  }

  #set(priority: number, isIdle: boolean): void {
    const numbers = this.#numbers;
    if (!this.#enabled || this.#isIdle === isIdle) return;
    if (numbers === undefined) return this.#failed(`not known how on ${process.arch}`);
    // The main thread first: what it makes from now on has the new priority already.
    for (const thread of [process.pid, ...threadIds().filter((id) => id !== process.pid)]) {
      this.#try(() => check(syscall(numbers.set, WHO_PROCESS, thread, priority), 'ioprio_set'));
    }
    this.#isIdle = isIdle;
  }

  #try<T>(call: () => T): T | null {
    try {
      return call();
    } catch (error) {
      // A thread that ended meanwhile reads nothing any more.
      if (!(error instanceof Error && 'errnoName' in error && error.errnoName === 'ESRCH'))
        this.#failed(messageOf(error));
      return null;
    }
  }

  #failed(problem: string): void {
    if (this.#problem === null) this.#onProblem(problem);
    this.#problem = problem;
  }
}
