/** The policy of a machine: what is taken, what is refused and in which words, and that of two changes at once one loses. */
import { describe, expect, test } from 'vitest';
import { policyName } from '../../receiver/catalog/names.js';
import { copyName } from '../../receiver/catalog/second-copies.js';
import { namesOfKind } from '../scrub/damages.js';
import { DEFAULT_POLICY, policySchema, type MachinePolicy } from '../../receiver/catalog/policy.js';
import { loadPolicy, Policies, policyText, savePolicy } from '../../receiver/catalog/policy-io.js';
import { parseConfig } from '../../shared/config/load.js';
import { POLICY_RECHECK_MS } from '../../shared/limits-retention.js';
import { randomOf, between } from '../helpers/random.js';
import { MACHINE } from '../helpers/layers.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';

const HOUR = 3_600_000;
const parse = (text: string): MachinePolicy => parseConfig('web1.yaml', text, policySchema);

describe('what is written', () => {
  test("nothing: Site Recovery's grid, and the agent's own interval", () => {
    expect(parse('')).toEqual(DEFAULT_POLICY);
    expect(policyText(DEFAULT_POLICY)).toEqual({
      retention: [
        { every: 'all', upTo: '2h' },
        { every: '1h', upTo: '1d' },
        { every: '2h', upTo: '7d' },
        { every: '4h', upTo: '15d' },
      ],
    });
  });

  test('years, and application-consistent points by a grid of their own', () => {
    const policy = parse(`
interval: 30s
applicationInterval: 1h
retention: [{ every: 5min, upTo: 1d }, { every: 1d, upTo: 35d }, { every: 28d, upTo: 36400d }]
applicationRetention: [{ every: all, upTo: 7d }]
`);
    expect(policy.intervalMs).toBe(30_000);
    expect(policy.applicationIntervalMs).toBe(HOUR);
    expect(policy.retention.tiers[2]).toEqual({ everyMs: 28 * 24 * HOUR, upToMs: 36_400 * 24 * HOUR });
    expect(policy.retention.applicationTiers).toEqual([{ everyMs: 0, upToMs: 7 * 24 * HOUR }]);
  });

  test('what is shown can be read again (random grids)', () => {
    const random = randomOf(11);
    for (let i = 0; i < 200; i++) {
      let everyMs = between(random, 1, 5_000) * 1_000;
      const tiers = Array.from({ length: between(random, 1, 5) }, (_, k) => ({
        everyMs: (everyMs *= k === 0 ? 1 : 2),
        upToMs: everyMs * 3 + k,
      }));
      const policy = { ...DEFAULT_POLICY, retention: { tiers, applicationTiers: [] } };
      expect(policySchema.parse(policyText(policy))).toEqual(policy);
    }
  });
});

const BAD: readonly [yaml: string, message: RegExp][] = [
  ['interval: 5\n', /:1: interval: .*\(value 5\)/],
  ['interval: 0s\n', /:1: interval: .*\(value "0s"\)/],
  ['interval: 2d\n', /:1: interval: expected a duration of 1s to 24h \(value "2d"\)/],
  ['intervall: 5s\n', /:1: intervall: unknown key/],
  ['retention: []\n', /:1: retention: expected at least one line/],
  [
    'retention:\n  - { every: 1h, upTo: 1d }\n  - { every: 90min, upTo: 7d }\n',
    /:3: retention\[1\]\.every: expected a multiple of 1h.*\(value "90min"\)/,
  ],
  [
    'retention:\n  - { every: 1h, upTo: 7d }\n  - { every: 2h, upTo: 1d }\n',
    /:3: retention\[1\]\.upTo: expected more than 7d.*\(value "1d"\)/,
  ],
  [
    'retention:\n  - { every: 2h, upTo: 7d }\n  - { every: 2h, upTo: 8d }\n',
    /retention\[1\]\.every: expected a longer distance/,
  ],
  [
    'retention:\n  - { every: 1h, upTo: 7d }\n  - { every: all, upTo: 8d }\n',
    /retention\[1\]\.every: expected a longer distance.*\(value "all"\)/,
  ],
  ['retention:\n  - { every: 4h, upTo: 2h }\n', /retention\[0\]\.every: expected no more than upTo.*\(value "4h"\)/],
  [
    'retention:\n  - { every: never, upTo: 2h }\n',
    /retention\[0\]\.every: expected "all" or a duration.*\(value "never"\)/,
  ],
  ['retention:\n  - { every: all, upTo: 40000d }\n', /retention\[0\]\.upTo: expected a duration of 1s to 36500d/],
  ['applicationRetention:\n  - { every: all }\n', /applicationRetention\[0\]\.upTo/],
];
test.each(BAD)('%j is refused, with its line and value', (yaml, message) => {
  expect(() => parse(yaml)).toThrow(
    expect.objectContaining({ kind: 'usage', message: expect.stringMatching(message) as unknown }),
  );
});

describe('numbers', () => {
  const deps = (store: MemoryStore) => ({ store, clock: new ManualClock() });
  const every = (seconds: number): MachinePolicy => ({ ...DEFAULT_POLICY, intervalMs: seconds * 1000 });

  test('none, the first, the next; the older ones stay', async () => {
    const store = new MemoryStore();
    expect(await loadPolicy(store, MACHINE)).toBeNull();
    expect(await savePolicy(deps(store), MACHINE, every(30))).toBe(1);
    expect(await savePolicy(deps(store), MACHINE, every(60))).toBe(2);
    expect(await loadPolicy(store, MACHINE)).toMatchObject({ number: 2, policy: every(60) });
    expect(namesOfKind(store.objects, 'policy')).toEqual([policyName(MACHINE, 1), policyName(MACHINE, 2)]);
  });

  test('two at once: one loses, says so, and has changed nothing', async () => {
    const store = new MemoryStore();
    const both = await Promise.allSettled([
      savePolicy(deps(store), MACHINE, every(30)),
      savePolicy(deps(store), MACHINE, every(60)),
    ]);
    expect(both.map((r) => r.status).sort()).toEqual(['fulfilled', 'rejected']);
    const lost = both.find((r) => r.status === 'rejected');
    expect(lost?.reason).toMatchObject({ code: 'policy-moved', kind: 'refused' });
    expect(namesOfKind(store.objects, 'policy')).toHaveLength(1);
    const kept = both[0].status === 'fulfilled' ? 30 : 60;
    expect(await loadPolicy(store, MACHINE)).toMatchObject({ policy: every(kept) });
  });

  test('a create whose answer was lost is known as its own when it is asked again', async () => {
    const memory = new MemoryStore();
    const twice = storeThrough(memory, async (what, work) => {
      if (what.startsWith('create')) await work();
      return work();
    });
    expect(await savePolicy({ store: twice, clock: new ManualClock() }, MACHINE, every(30))).toBe(1);
  });

  test('a policy that is damaged with its second copy is an error, not the default', async () => {
    const store = new MemoryStore();
    await savePolicy(deps(store), MACHINE, every(30));
    const name = policyName(MACHINE, 1);
    const bytes = Buffer.from(store.objects.get(name) ?? '');
    bytes[40] = (bytes[40] ?? 0) ^ 1;
    for (const one of [name, copyName(name)]) store.objects.set(one, bytes);
    await expect(loadPolicy(store, MACHINE)).rejects.toMatchObject({ kind: 'corrupt' });
    await expect(new Policies(store, new ManualClock(), DEFAULT_POLICY).of(MACHINE)).rejects.toMatchObject({
      kind: 'corrupt',
    });
  });

  test('a process that asks often lists once a minute, copies as well, and reads what changed', async () => {
    const memory = new MemoryStore();
    const asked: string[] = [];
    const store = storeThrough(memory, (what, work) => {
      asked.push(what.split(' ')[0] ?? '');
      return work();
    });
    const clock = new ManualClock();
    const policies = new Policies(store, clock, every(5));
    for (let i = 0; i < 10; i++) expect(await policies.of(MACHINE)).toEqual(every(5));
    expect(asked).toEqual(['list', 'list']);
    await savePolicy({ store: memory, clock }, MACHINE, every(30));
    expect(await policies.of(MACHINE)).toEqual(every(5));
    await clock.pass(POLICY_RECHECK_MS);
    expect(await policies.of(MACHINE)).toEqual(every(30));
    await clock.pass(POLICY_RECHECK_MS);
    expect(await policies.of(MACHINE)).toEqual(every(30));
    expect(asked).toEqual(['list', 'list', 'list', 'list', 'get', 'list', 'list']);
  });
});
