/**
 * `afterimage retention preview MACHINE [--policy FILE]`: what a policy keeps and costs. Changes nothing; no receiver has to run.
 */
import { durationText } from '../../shared/config/parse-values.js';
import { PREVIEW_LINES_MAX } from '../../shared/limits-retention.js';
import { resolveMachine } from '../catalog/machines.js';
import { policySchema } from '../catalog/policy.js';
import { loadPolicy, policyText } from '../catalog/policy-io.js';
import { MachineReader } from '../catalog/reader.js';
import { loadHeld } from '../upkeep/retention-held.js';
import { loadContent, previewRetention, type Preview, type PreviewNow } from '../upkeep/retention-preview.js';
import type { SteadyCost } from '../upkeep/retention-cost.js';
import { configuredPolicy, openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { bytes, localIso, printJson, table } from './output.js';
import { readYaml } from './read-yaml.js';

export interface PreviewOptions extends GlobalOptions {
  /** A file, or `-` for standard input. */
  readonly policy?: string;
}

export async function previewCommand(word: string, options: PreviewOptions, io: CliIo): Promise<void> {
  const wish = options.policy === undefined ? null : await readYaml(options.policy, policySchema, io);
  const store = await openConfiguredStore(options, io);
  try {
    const machine = await resolveMachine(store, word);
    const view = await MachineReader.open(store, machine);
    const own = wish ?? (await loadPolicy(store, machine))?.policy;
    const policy = own ?? (await configuredPolicy(options));
    const nowMs = io.clock.nowMs();
    const held = await loadHeld(store, machine, nowMs);
    const preview = previewRetention(await loadContent(view), policy, nowMs, held.points);
    if (options.json === true)
      printJson(io, { policy: policyText(policy), ...jsonOf(preview), blockers: held.blockers });
    else io.out.write(textOf(preview, held.blockers));
  } finally {
    await store.close();
  }
}

function jsonOf({ now, steady }: Preview): object {
  const { keep, drop, doubts } = now.plan;
  return {
    now: {
      kept: now.kept,
      keep: keep.map(({ point, code, reason }) => ({ point: point.number, code, reason })),
      drop: drop.map(({ point, code, reason }) => ({ point: point.number, code, reason })),
      doubts,
      oldestPoint: now.oldest?.number ?? null,
      storedBytes: now.storedBytes,
      afterBytes: Math.round(now.afterBytes),
    },
    steady,
  };
}

const textOf = (preview: Preview, blockers: readonly string[]): string =>
  `${nowText(preview.now, blockers)}\n${steadyText(preview.steady)}`;

function nowText({ kept, plan, oldest, storedBytes, afterBytes }: PreviewNow, blockers: readonly string[]): string {
  const { keep, drop, doubts } = plan;
  const lines = [
    `Now: ${keep.length} of ${keep.length + drop.length} points stay`,
    oldest === null ? '' : `, the oldest of ${localIso(oldest.cutAtMs)}`,
    `; ${bytes(storedBytes)} stored, about ${bytes(Math.round(afterBytes))} once upkeep has merged what lies between.\n\n`,
    table(
      [{ title: 'KEPT' }, { title: 'POINTS', right: true }],
      kept.map((k) => [k.why, String(k.points)]),
    ),
  ];
  if (drop.length > 0) {
    lines.push(
      `\nThese go${drop.length > PREVIEW_LINES_MAX ? ` (${PREVIEW_LINES_MAX} of ${drop.length}; all with --json)` : ''}:\n`,
    );
    const shown = drop
      .slice(0, PREVIEW_LINES_MAX)
      .map((d) => [String(d.point.number), localIso(d.point.cutAtMs), d.reason]);
    lines.push(table([{ title: 'POINT', right: true }, { title: 'CUT' }, { title: 'WHY' }], shown));
  }
  for (const doubt of doubts) lines.push(`Doubt: ${doubt}.\n`);
  for (const blocker of blockers) lines.push(`Nothing is dropped while this is so: ${blocker}.\n`);
  return lines.join('');
}

function steadyText({
  tiers,
  points,
  oldestMs,
  imageBytes,
  garbageBytes,
  totalBytes,
  perDay,
  notes,
}: SteadyCost): string {
  const whole = (n: number): string => Math.round(n).toLocaleString('en-US');
  const size = (n: number): string => bytes(Math.round(n));
  const rows = [
    ...tiers.map((t) => [
      `${t.application ? 'application-consistent: ' : ''}${t.tier}`,
      whole(t.points),
      size(t.bytes),
    ]),
    ['the image at the oldest point', '', size(imageBytes)],
    ['superseded, until bases are rebuilt (at most)', '', size(garbageBytes)],
    ['all', whole(points), size(totalBytes)],
  ];
  return [
    `In the long run: ${whole(points)} points, the oldest of ${durationText(oldestMs)} ago.\n\n`,
    table([{ title: 'STORED' }, { title: 'POINTS', right: true }, { title: 'BYTES', right: true }], rows),
    `\nPer day: ${whole(perDay.points)} points, ${size(perDay.ingestedBytes)} from the machine, ${size(perDay.rewrittenBytes)} written again by upkeep, `,
    `${whole(perDay.puts)} objects written, ${whole(perDay.gets)} reads, ${whole(perDay.deletedObjects)} objects deleted.\n`,
    'Estimated:\n',
    ...notes.map((note) => `  - ${note}\n`),
  ].join('');
}
