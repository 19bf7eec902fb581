/**
 * Configuration from a YAML file, checked whole at the start: a key that nobody reads or a value that can't be meant is an error
 * with its line, never a surprise later. Reads only; secrets don't belong in these files.
 */
import { readFile, stat } from 'node:fs/promises';
import { isMap, isPair, LineCounter, parseDocument, visit, type Document, type Node } from 'yaml';
import type { z } from 'zod';
import { AfterimageError, errnoOf, messageOf, usageError } from '../errors.js';
import { CONFIG_BYTES_MAX } from '../limits.js';

const HINT = 'Correct the file and start again; nothing was changed.';
const VALUE_SHOWN_MAX = 80;

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/** Reads and checks a configuration file. What is wrong is told for every place at once, as `FILE:LINE: key: what is wrong (value …)`. */
export async function loadConfig<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  return parseConfig(path, await readText(path), schema);
}

/**
 * The file that the operator named must exist. Without one the file at the default path is read, if there is any:
 * a fresh installation runs on defaults.
 */
export async function loadConfigOrDefaults<T>(
  named: string | undefined,
  defaultPath: string,
  schema: z.ZodType<T>,
): Promise<T> {
  if (named !== undefined) return loadConfig(named, schema);
  try {
    return await loadConfig(defaultPath, schema);
  } catch (error) {
    if (error instanceof AfterimageError && errnoOf(error.cause) === 'ENOENT') return schema.parse({});
    throw error;
  }
}

async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > CONFIG_BYTES_MAX) throw usageError(`${path} has ${size} bytes: not a configuration file`, HINT);
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof AfterimageError) throw error;
    const what = errnoOf(error) === 'ENOENT' ? 'there is no such configuration file' : messageOf(error);
    throw new AfterimageError(`${path}: ${what}`, {
      code: 'usage',
      kind: 'usage',
      hint: 'Give the path of a readable file, or leave the option out to use the defaults.',
      cause: error,
    });
  }
}

/** The same for text that is already in memory; `file` is for messages. */
export function parseConfig<T>(file: string, text: string, schema: z.ZodType<T>): T {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const problems = document.errors.map((e) => ({ offset: e.pos[0], what: `not valid YAML: ${e.message}` }));
  visit(document, {
    Alias: (_key, node) =>
      void problems.push({ offset: node.range?.[0] ?? 0, what: `*${node.source}: aliases are not supported` }),
  });
  if (problems.length > 0) {
    throw usageError(problems.map((p) => `${file}:${lines.linePos(p.offset).line}: ${p.what}`).join('\n'), HINT);
  }
  const parsed = schema.safeParse(document.toJS() ?? {});
  if (parsed.success) return parsed.data;
  const found = parsed.error.issues.flatMap((issue) => describe(issue, document, lines));
  throw usageError(found.map(({ line, what }) => `${file}:${line}: ${what}`).join('\n'), HINT);
}

interface Problem {
  readonly line: number;
  readonly what: string;
}

function describe(issue: Issue, document: Document, lines: LineCounter): Problem[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const path = [...issue.path, key];
      return { line: lineOfKey(document, path, lines), what: `${textOf(path)}: unknown key` };
    });
  }
  const node = nodeAt(document, issue.path);
  const value = node === null ? '' : ` (value ${shown(issue.path, document)})`;
  return [{ line: lineOfKey(document, issue.path, lines), what: `${textOf(issue.path)}: ${issue.message}${value}` }];
}

/** `tracker.mode`, `bandwidth.schedule[2].from`. */
function textOf(path: Path): string {
  const text = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
  return text === '' ? 'the file' : text.replace(/^\./, '');
}

const nodeAt = (document: Document, path: Path): Node | null =>
  (path.length === 0 ? document.contents : (document.getIn(path, true) as Node | undefined)) ?? null;

/** Line of the key itself where there is one, else of the nearest thing around it that exists. */
function lineOfKey(document: Document, path: Path, lines: LineCounter): number {
  for (let length = path.length; length > 0; length--) {
    const parent = nodeAt(document, path.slice(0, length - 1));
    const last = path[length - 1];
    const pair = isMap(parent) ? parent.items.find((item) => keyText(item.key) === String(last)) : undefined;
    const node = isPair(pair) ? (pair.key as Node) : nodeAt(document, path.slice(0, length));
    if (node?.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}

const keyText = (key: unknown): string =>
  String(typeof key === 'object' && key !== null && 'value' in key ? key.value : key);

/** The value as it stands in the file, short; never that of a key that sounds like a secret. */
function shown(path: Path, document: Document): string {
  if (/secret|password|token|key/i.test(String(path.at(-1)))) return 'not shown';
  const value: unknown = document.getIn(path);
  const text = isMap(value) ? 'a mapping' : (JSON.stringify(value) ?? 'nothing');
  return text.length > VALUE_SHOWN_MAX ? `${text.slice(0, VALUE_SHOWN_MAX)}…` : text;
}
