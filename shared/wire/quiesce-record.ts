/**
 * What a point tells about how it was quiesced: who took part, for how long, what hooks said, and why it is weaker than asked for. Part of the commit and
 * of the manifest. Bounded: it stands in every list of points.
 */
import { z } from 'zod';
import {
  POINT_LABEL_CHARS_MAX,
  QUIESCE_APPLICATIONS_MAX,
  QUIESCE_HOOK_LINES_MAX,
  QUIESCE_HOOKS_MAX,
  QUIESCE_RECORD_BYTES_MAX,
} from '../limits-quiesce.js';

/** Of one name, line or detail; shorter where many of them would not fit into a point. */
const TEXT_CHARS_MAX = 300;
const SHORTER_TEXT_CHARS = [TEXT_CHARS_MAX, 120, 40] as const;
/** The reason is the last to be cut. */
const WEAKER_CHARS_MAX = 500;
const SHORTEST_WEAKER_CHARS = 200;
const FILESYSTEMS_MAX = 64;
const HOOK_CALLS_MAX = 2 * QUIESCE_HOOKS_MAX;

const text = z.string().max(TEXT_CHARS_MAX);
const ms = z.number().nonnegative();

/** An operator's name for a point: one line, printable. */
export const labelSchema = z
  .string()
  .min(1)
  .max(POINT_LABEL_CHARS_MAX)
  .regex(/^[^\p{Cc}]*$/u, 'control characters');

export const quiesceRecordSchema = z.strictObject({
  asked: z.enum(['filesystem', 'application']),
  /** Why the point is weaker than that; '' when it isn't. */
  weaker: z.string().max(WEAKER_CHARS_MAX),
  /** From the first application that was touched until all ran again. */
  totalMs: ms,
  /** For how long applications held commits back. */
  heldMs: ms,
  /** Mount points that were frozen, in that order. */
  filesystems: z.array(text).max(FILESYSTEMS_MAX),
  applications: z.array(z.strictObject({ name: text, detail: text })).max(QUIESCE_APPLICATIONS_MAX),
  hooks: z
    .array(
      z.strictObject({
        name: text,
        phase: z.enum(['pre', 'post', 'abort']),
        failure: text.nullable(),
        tookMs: ms,
        output: z.array(text).max(QUIESCE_HOOK_LINES_MAX),
      }),
    )
    .max(HOOK_CALLS_MAX),
  /** What is not told here for want of room; absent: nothing. */
  omitted: text.optional(),
});
export type QuiesceRecord = z.infer<typeof quiesceRecordSchema>;

/** Brings a record within its bounds: what hooks said goes first, the longest before the others; then texts are cut, then entries left out. Pure. */
export function boundedRecord(record: QuiesceRecord): QuiesceRecord {
  let bounded = shortened(record, TEXT_CHARS_MAX);
  for (const charsMax of SHORTER_TEXT_CHARS) {
    bounded = withLessOutput(shortened(record, charsMax));
    if (bytesOf(bounded) <= QUIESCE_RECORD_BYTES_MAX) return bounded;
  }
  while (bytesOf(bounded) > QUIESCE_RECORD_BYTES_MAX) {
    const fewer = withOneLess(bounded);
    if (fewer === null) break;
    bounded = { ...fewer, ...omittedOf(record, fewer) };
  }
  return bounded;
}

const bytesOf = (value: unknown): number => Buffer.byteLength(JSON.stringify(value));

/** No letter of two halves is cut in two. */
function cut(value: string, charsMax: number): string {
  if (value.length <= charsMax) return value;
  return `${value.slice(0, charsMax - 1).replace(/[\uD800-\uDBFF]$/, '')}…`;
}

function shortened(record: QuiesceRecord, charsMax: number): QuiesceRecord {
  const short = (value: string): string => cut(value, charsMax);
  const { omitted: _, ...rest } = record;
  const bounded: QuiesceRecord = {
    ...rest,
    weaker: cut(record.weaker, charsMax === TEXT_CHARS_MAX ? WEAKER_CHARS_MAX : SHORTEST_WEAKER_CHARS),
    filesystems: record.filesystems.slice(0, FILESYSTEMS_MAX).map(short),
    applications: record.applications
      .slice(0, QUIESCE_APPLICATIONS_MAX)
      .map(({ name, detail }) => ({ name: short(name), detail: short(detail) })),
    hooks: record.hooks.slice(0, HOOK_CALLS_MAX).map((hook) => ({
      ...hook,
      name: short(hook.name),
      failure: hook.failure === null ? null : short(hook.failure),
      output: hook.output.slice(-QUIESCE_HOOK_LINES_MAX).map(short),
    })),
  };
  return { ...bounded, ...omittedOf(record, bounded) };
}

const entriesOf = ({ hooks, applications, filesystems }: QuiesceRecord): number =>
  hooks.length + applications.length + filesystems.length;

function omittedOf(all: QuiesceRecord, told: QuiesceRecord): { omitted?: string } {
  const count = entriesOf(all) - entriesOf(told);
  return count === 0 ? {} : { omitted: `${count} hooks, applications or filesystems; the log has all` };
}

/** Lines that came first go first: why something failed stands at the end. */
function withLessOutput(record: QuiesceRecord): QuiesceRecord {
  const outputs = record.hooks.map(({ output }) => ({ lines: [...output], bytes: bytesOf(output) }));
  let left = bytesOf(record);
  while (left > QUIESCE_RECORD_BYTES_MAX) {
    const longest = outputs.reduce((a, b) => (b.bytes > a.bytes ? b : a), { lines: [] as string[], bytes: 0 });
    if (longest.lines.shift() === undefined) break;
    const bytes = bytesOf(longest.lines);
    left -= longest.bytes - bytes;
    longest.bytes = bytes;
  }
  return { ...record, hooks: record.hooks.map((hook, i) => ({ ...hook, output: outputs[i]?.lines ?? [] })) };
}

/** Calls that went well are missed least, then filesystems. Null: nothing is left. */
function withOneLess(record: QuiesceRecord): QuiesceRecord | null {
  const { hooks, filesystems, applications } = record;
  const fine = hooks.findLastIndex(({ failure }) => failure === null);
  if (fine >= 0) return { ...record, hooks: hooks.toSpliced(fine, 1) };
  if (filesystems.length > 1) return { ...record, filesystems: filesystems.slice(0, -1) };
  if (hooks.length > 1) return { ...record, hooks: hooks.slice(0, -1) };
  if (applications.length > 0) return { ...record, applications: applications.slice(0, -1) };
  return null;
}
