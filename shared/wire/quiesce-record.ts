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

const text = z.string().max(300);
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
  weaker: z.string().max(500),
  /** From the first application that was touched until all ran again. */
  totalMs: ms,
  /** For how long applications held commits back. */
  heldMs: ms,
  /** Mount points that were frozen, in that order. */
  filesystems: z.array(text).max(64),
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
    .max(2 * QUIESCE_HOOKS_MAX),
});
export type QuiesceRecord = z.infer<typeof quiesceRecordSchema>;

const cut = (value: string): string => (value.length <= 300 ? value : `${value.slice(0, 299)}…`);

/** Brings a record within its bounds: long texts are cut, then what hooks said goes, the longest first; the log has it whole. Pure. */
export function boundedRecord(record: QuiesceRecord): QuiesceRecord {
  const hooks = record.hooks.slice(0, 2 * QUIESCE_HOOKS_MAX).map((hook) => ({
    ...hook,
    name: cut(hook.name),
    failure: hook.failure === null ? null : cut(hook.failure),
    output: hook.output.slice(-QUIESCE_HOOK_LINES_MAX).map(cut),
  }));
  const bounded: QuiesceRecord = {
    ...record,
    weaker: record.weaker.slice(0, 500),
    filesystems: record.filesystems.slice(0, 64).map(cut),
    applications: record.applications.map(({ name, detail }) => ({ name: cut(name), detail: cut(detail) })),
    hooks,
  };
  const size = (): number => Buffer.byteLength(JSON.stringify(bounded));
  while (size() > QUIESCE_RECORD_BYTES_MAX) {
    const longest = hooks.reduce((a, b) => (said(b) > said(a) ? b : a), hooks[0] ?? { output: [] });
    if (longest.output.length === 0) break;
    longest.output.shift();
  }
  return bounded;
}

const said = ({ output }: { readonly output: readonly string[] }): number =>
  output.reduce((sum, line) => sum + line.length, 0);
