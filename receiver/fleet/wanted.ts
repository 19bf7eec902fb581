/**
 * Which receiver a machine belongs to: rendezvous hashing, pure. Every receiver that sees the same others comes to the same answer without asking.
 *
 * Each pair of machine and receiver has a score that depends on nothing else, and the highest wins: a receiver that comes takes only what it wins, one
 * that goes gives up only what it had, and nothing moves between the others.
 */
import { checksum64 } from '../../shared/blocks/hash.js';

export interface Candidate {
  readonly id: string;
  /** Its share, relative to the others'. */
  readonly weight: number;
}

/** Highest score of a weight-proportional draw: -weight / ln(u), with u from the hash of both ids. */
function score(machine: string, { id, weight }: Candidate): number {
  const hash = checksum64(Buffer.from(`${machine} ${id}`, 'utf8'));
  // 53 bits, and a half: never 0, whose logarithm is none, and never 1.
  const u = (Number(hash >> 11n) + 0.5) / 2 ** 53;
  return -weight / Math.log(u);
}

/** `machine`: its id, or that of its group. Null when there is nobody. */
export function wantedOwner(machine: string, candidates: readonly Candidate[]): string | null {
  let best: { readonly id: string; readonly score: number } | null = null;
  for (const candidate of candidates) {
    const own = score(machine, candidate);
    // Equal scores are all but impossible; the id decides, so that all decide alike.
    if (best === null || own > best.score || (own === best.score && candidate.id < best.id))
      best = { id: candidate.id, score: own };
  }
  return best?.id ?? null;
}
