/**
 * What became of each disk's tracking at boot, for the agent that starts later: `<runDir>/outcome`, in memory. It only names reasons; whether
 * tracking goes on stands in the kernel's pinned maps.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';

const schema = z.strictObject({
  bootId: z.string(),
  disks: z.array(z.strictObject({ disk: z.string(), goesOn: z.boolean(), reason: z.string() })),
});
type Outcome = z.infer<typeof schema>;
export type DiskOutcome = Outcome['disks'][number];

export const outcomePath = (runDir: string): string => join(runDir, 'outcome');
export const encodeOutcome = (outcome: Outcome): string => `${JSON.stringify(outcome)}\n`;

/** Why tracking of a disk did not go on over the last reboot; null when that is not known. */
export async function rebootReasons(runDir: string, bootId: string): Promise<ReadonlyMap<string, string>> {
  try {
    const outcome = schema.parse(JSON.parse(await readFile(outcomePath(runDir), 'utf8')));
    if (outcome.bootId !== bootId) return new Map();
    return new Map(outcome.disks.filter(({ goesOn }) => !goesOn).map(({ disk, reason }) => [disk, reason]));
  } catch {
    // The arming unit did not run.
    return new Map();
  }
}
