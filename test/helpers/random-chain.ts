/**
 * A chain with random history: rewrites, zero runs small and huge, parts, first-copy bases with a catch-up delta, bases built later, merges.
 */
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import { MIB } from '../../shared/units.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { Chain, type Change } from './layers.js';
import { between, randomOf, type Random } from './random.js';

function changesOf(chain: Chain, random: Random, tag: string): Change[] {
  const { blockCount } = chain.geometry;
  const changes: Change[] = [];
  for (let i = between(random, 0, 7); i >= 0; i--) {
    // Half of the work falls on the first 200 blocks, so that things overlap; some on the disk's very end.
    const kind = random();
    const first =
      kind < 0.5
        ? between(random, 0, 200)
        : kind < 0.65
          ? blockCount - 1 - between(random, 0, 3)
          : between(random, 0, blockCount);
    if (random() < 0.25) {
      const wish = random() < 0.2 ? between(random, 1, 40_000) : between(random, 1, 50);
      changes.push({ first, zeroCount: Math.min(wish, blockCount - first) });
      continue;
    }
    const count = Math.min(between(random, 1, 40), blockCount - first);
    const compressible = random() < 0.7;
    const blocks = Array.from({ length: count }, (_, k) =>
      random() < 0.05 ? Buffer.alloc(chain.geometry.blockBytes) : chain.block(first + k, `${tag} ${i}`, compressible),
    );
    changes.push({ first, blocks });
  }
  return changes;
}

/** Sizes: three to five segments, an odd end in most. */
export async function randomChain(store: ObjectStore, seed: number): Promise<Chain> {
  const random = randomOf(seed);
  const blockBytes = random() < 0.7 ? 4096 : 16384;
  const sizeBytes = between(random, 130, 300) * MIB + 512 * between(random, 0, 64);
  const chain = new Chain(store, { sizeBytes, blockBytes });
  const { segmentCount } = chain.geometry;
  // First copy: some segments have a base read before the cut, and the catch-up comes after.
  chain.apply(changesOf(chain, random, 'first'));
  for (let s = 0; s < segmentCount; s++)
    if (random() < 0.7) await chain.base(s, 1);
    else await firstAsDelta(chain, s);
  const pointCount = between(random, 3, 9);
  for (let p = 1; p <= pointCount; p++) {
    const changes = changesOf(chain, random, `point ${p}`);
    chain.apply(changes);
    const split = random() < 0.3 ? between(random, 0, changes.length) : 0;
    if (split > 0) await chain.delta(p, p, changes.slice(0, split));
    if (split < changes.length) await chain.delta(p, p, changes.slice(split));
    chain.point(p);
    if (random() < 0.3) {
      const at = between(random, 1, p + 1);
      await chain.base(between(random, 0, segmentCount), at, chain.models.get(at));
    }
  }
  if (random() < 0.5 && pointCount > 4) await merge(chain, 3, pointCount - 1);
  return chain;
}

/** A segment of the first copy without a base: its content as a staged delta. */
async function firstAsDelta(chain: Chain, segment: number): Promise<void> {
  const { first, count } = segmentBlocks(chain.geometry, segment);
  const blocks = [...chain.current.entries()].filter(([b]) => b >= first && b < first + count);
  if (blocks.length === 0) return;
  await chain.delta(
    1,
    1,
    blocks.map(([b, bytes]): Change => ({ first: b, blocks: [bytes] })),
    segment,
  );
}

/** Replaces the deltas of points first..last by one; the points between are gone. */
async function merge(chain: Chain, first: number, last: number): Promise<void> {
  const inside = chain.deltas.filter((d) => d.lastPoint >= first && d.lastPoint <= last);
  const kept = chain.deltas.filter((d) => !inside.includes(d));
  chain.deltas.length = 0;
  chain.deltas.push(...kept);
  // All blocks of its inputs, also those that came back to what they were: a base between them may hold another state.
  await chain.delta(
    first,
    last,
    inside.flatMap((d) => chain.changes.get(d) ?? []),
  );
  chain.deltas.sort((a, b) => a.lastPoint - b.lastPoint || a.sequence - b.sequence);
  for (let p = first; p < last; p++) {
    chain.models.delete(p);
    chain.points.splice(
      chain.points.findIndex((point) => point.number === p),
      1,
    );
  }
}
