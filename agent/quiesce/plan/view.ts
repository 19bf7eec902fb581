/**
 * The quiesce plan as people read it. Pure text.
 */
import type { QuiescePlan } from './plan.js';

export function planText(plan: QuiescePlan): string {
  const lines = [`Strongest point: ${plan.strongest}-consistent (${plan.reason})`];
  if (plan.freeze.length > 0) lines.push('', 'Freeze, in this order; thaw in the reverse one:');
  for (const [index, { fsType, mounts, chain }] of plan.freeze.entries()) {
    const [first, ...others] = mounts.map(({ path }) => path);
    const also = others.length === 0 ? '' : `, also at ${others.join(', ')}`;
    lines.push(`  ${index + 1}. ${fsType} at ${first ?? '?'}${also}`, `     on ${chain.join(' → ')}`);
  }
  if (plan.skipped.length > 0) lines.push('', 'Not frozen:');
  for (const { path, fsType, reason } of plan.skipped) lines.push(`  ${fsType} at ${path}: ${reason}`);
  if (plan.applications.length > 0) lines.push('', 'Applications on these filesystems:');
  for (const { title, on, quiescedAs } of plan.applications)
    lines.push(
      `  ${title}, on ${on.join(', ')}: ${quiescedAs === null ? 'not quiesced' : `quiesced as ${quiescedAs}`}`,
    );
  if (plan.hooks.length > 0) lines.push('', 'Hooks:', ...plan.hooks.map((name) => `  ${name}`));
  if (plan.own.length > 0) lines.push('', 'What of the agent lies on a filesystem that is frozen:');
  for (const { what, path, on, reason } of plan.own) lines.push(`  ${what} ${path} (on ${on}): ${reason}`);
  if (plan.warnings.length > 0) lines.push('', 'Warnings:');
  for (const { text, hint } of plan.warnings) lines.push(`  ${text}`, `      ${hint}`);
  return lines.join('\n');
}
