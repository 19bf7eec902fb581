/**
 * Which hooks there are: executables in the folder of hooks, in the order of their names, and Site Recovery's script after them. They run as root, so
 * what others could have written is refused; and what is refused is told, since a hook that silently doesn't run would make a point a lie.
 */
import { accessSync, constants, readdirSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { errnoOf, messageOf } from '../../../shared/errors.js';
import { QUIESCE_HOOKS_MAX } from '../../../shared/limits-quiesce.js';

export interface Hook {
  readonly name: string;
  readonly path: string;
  /** How it is told what to do: `pre` or, as Site Recovery does, `--pre`. */
  readonly style: 'word' | 'option';
  readonly timeoutMs: number;
}

export interface HookFiles {
  readonly hooks: readonly Hook[];
  readonly refused: readonly { readonly name: string; readonly why: string }[];
}

export interface HookSettings {
  readonly dir: string;
  readonly timeout: number;
  readonly timeouts: Readonly<Record<string, number>>;
  readonly script?: string | undefined;
}

/** Left behind by editors and package managers, or meant for people. */
const NOT_A_HOOK = /^\.|~$|\.(bak|orig|disabled|dpkg-\w+|rpm(save|new|orig))$|^README/i;

export function findHooks(settings: HookSettings): HookFiles {
  const hooks: Hook[] = [];
  const refused: { name: string; why: string }[] = [];
  const consider = (name: string, path: string, style: Hook['style']): void => {
    const why = whyNot(path);
    if (why !== null) refused.push({ name, why });
    else if (hooks.length >= QUIESCE_HOOKS_MAX) refused.push({ name, why: `more than ${QUIESCE_HOOKS_MAX} hooks` });
    else hooks.push({ name, path, style, timeoutMs: settings.timeouts[name] ?? settings.timeout });
  };
  const { names, problem } = namesIn(settings.dir);
  if (problem !== null) refused.push({ name: settings.dir, why: problem });
  for (const name of names) consider(name, join(settings.dir, name), 'word');
  if (settings.script !== undefined) consider(basename(settings.script), settings.script, 'option');
  return { hooks, refused };
}

function namesIn(dir: string): { names: string[]; problem: string | null } {
  try {
    const names = readdirSync(dir).filter((name) => !NOT_A_HOOK.test(name));
    const problem = names.length === 0 ? null : writableByOthers(dir);
    // By bytes, not by the rules of a language: the order must be the same everywhere.
    return problem === null ? { names: names.sort(), problem } : { names: [], problem };
  } catch (error) {
    return { names: [], problem: errnoOf(error) === 'ENOENT' ? null : messageOf(error) };
  }
}

function whyNot(path: string): string | null {
  try {
    // Follows links: what they lead to is what runs.
    if (!statSync(path).isFile()) return 'it is no file';
    accessSync(path, constants.X_OK);
  } catch (error) {
    return errnoOf(error) === 'EACCES' ? `it is not executable (chmod +x ${path})` : messageOf(error);
  }
  return writableByOthers(path) ?? writableByOthers(dirname(path));
}

function writableByOthers(path: string): string | null {
  const { uid, mode } = statSync(path);
  const isSticky = (mode & 0o1000) !== 0;
  if ((mode & 0o022) !== 0 && !isSticky) return `${path} can be written by others than its owner`;
  const self = process.getuid?.() ?? 0;
  return uid === 0 || uid === self ? null : `${path} belongs to user ${uid}, not to root`;
}
