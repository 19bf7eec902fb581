/**
 * The quiesce plan: what would be frozen for a stronger point, in which order and why, what of our own lies on it, and which applications.
 * A pure function of facts (`facts.ts` gathers them), so that each rule stands in a table of tests. Decides nothing at run time beyond the order: the
 * freeze itself looks at the mounts again, since they change.
 */
import type { MountEntry } from '../mountinfo.js';
import { planFreeze, superblockOfFile, type DeviceGraph, type MountedFilesystem } from '../mounts.js';
import type { ApplicationKind, FoundApplication } from './applications.js';

/** Something of the agent's own that lies on some filesystem. */
export interface OwnPath {
  readonly what: string;
  readonly path: string;
  /** `read`: programs and configuration. `between`: written, but never while anything is frozen. `log`: lines are held in memory until the thaw. */
  readonly use: 'read' | 'between' | 'log';
  /** `major:minor` of what it lies on; null when it doesn't exist yet. */
  readonly device: string | null;
}

export interface HookFound {
  readonly name: string;
  /** Why it isn't run; null when it is. */
  readonly refused: string | null;
}

export interface ConfiguredApplication {
  readonly name: string;
  readonly kind: ApplicationKind;
}

export interface QuiesceFacts {
  readonly mounts: readonly MountEntry[];
  readonly graph: DeviceGraph;
  /** Protected disks: what an operator calls them, and the devices through which they can be mounted. */
  readonly sources: readonly { readonly title: string; readonly devices: readonly string[] }[];
  readonly own: readonly OwnPath[];
  readonly found: readonly FoundApplication[];
  readonly configured: readonly ConfiguredApplication[];
  readonly hooks: readonly HookFound[];
  readonly freezeEnabled: boolean;
}

export interface PlannedFilesystem extends MountedFilesystem {
  /** From the protected disk up to the filesystem's device. */
  readonly chain: readonly string[];
  /** Devices that it lies on and that no protected disk covers. */
  readonly uncovered: readonly string[];
}

export interface PlannedApplication {
  readonly kind: ApplicationKind;
  readonly title: string;
  /** Mount points of frozen filesystems that hold its files. */
  readonly on: readonly string[];
  /** Folders of its files that no frozen filesystem holds. */
  readonly outside: readonly string[];
  /** By which name of the configuration it is quiesced; null: it isn't. */
  readonly quiescedAs: string | null;
}

export interface PlanWarning {
  readonly code:
    | 'partly-protected'
    | 'cannot-freeze'
    | 'application-outside'
    | 'application-not-configured'
    | 'application-not-found'
    | 'hook-refused'
    | 'log-on-frozen'
    | 'freeze-disabled'
    | 'nothing-to-freeze';
  readonly text: string;
  readonly hint: string;
}

export interface QuiescePlan {
  /** In the order of freezing: innermost first. */
  readonly freeze: readonly PlannedFilesystem[];
  /** Mount points in the order of thawing. */
  readonly thaw: readonly string[];
  readonly skipped: readonly { readonly path: string; readonly fsType: string; readonly reason: string }[];
  readonly own: readonly {
    readonly what: string;
    readonly path: string;
    readonly on: string;
    readonly reason: string;
  }[];
  readonly applications: readonly PlannedApplication[];
  readonly hooks: readonly string[];
  /** The strongest consistency that a point can have, and why not more. */
  readonly strongest: 'application' | 'filesystem' | 'crash';
  readonly reason: string;
  readonly warnings: readonly PlanWarning[];
}

const OWN_REASON: Readonly<Record<OwnPath['use'], string>> = {
  read: 'only read while frozen, and reading goes on',
  between: 'written before the freeze and after the thaw only',
  log: 'lines are held in memory until the thaw',
};

const SKIP_REASON = {
  'read-only': 'mounted read-only: nothing is written',
  'cannot-freeze': 'Linux can not freeze this kind: it is only crash-consistent in any point',
} as const;

const pathOf = (filesystem: MountedFilesystem): string => filesystem.mounts[0]?.path ?? filesystem.source;

export function quiescePlan(facts: QuiesceFacts): QuiescePlan {
  const { mounts, graph } = facts;
  const devices = facts.sources.flatMap((source) => source.devices);
  const plan = planFreeze(mounts, graph, devices);
  const chains = chainsFrom(facts);
  const freeze = plan.freeze.map((filesystem): PlannedFilesystem => {
    const entry = mounts.find((mount) => mount.device === filesystem.device);
    const own = entry === undefined ? [] : graph.devicesOf(entry);
    return {
      ...filesystem,
      chain: own.flatMap((name) => chains.get(name) ?? []).slice(0, CHAIN_MAX),
      uncovered: [...new Set(own.flatMap((name) => uncovered(facts, new Set(devices), name, new Set())))],
    };
  });
  const on = (path: string, device: string | null): string | null => {
    // A number that no mount shows is that of a subvolume.
    const isKnown = mounts.some((entry) => entry.device === device);
    const key = isKnown ? device : superblockOfFile(mounts, path);
    const filesystem = freeze.find((f) => f.device === key);
    return filesystem === undefined ? null : pathOf(filesystem);
  };
  const own = facts.own.flatMap(({ what, path, use, device }) => {
    const at = on(path, device);
    return at === null ? [] : [{ what, path, on: at, reason: OWN_REASON[use] }];
  });
  const applications = applicationsOn(facts, on);
  const skipped = plan.skipped.map(({ path, fsType, why }) => ({ path, fsType, reason: SKIP_REASON[why] }));
  const hooks = facts.hooks.filter((hook) => hook.refused === null).map((hook) => hook.name);
  return {
    freeze,
    thaw: freeze.map(pathOf).toReversed(),
    skipped,
    own,
    applications,
    hooks,
    ...strongestOf(facts, freeze, hooks),
    warnings: warningsOf(facts, freeze, plan.skipped, applications, on),
  };
}

/** A chain longer than this helps nobody; stacks are a few devices high. */
const CHAIN_MAX = 32;

/** For each device that a filesystem can lie on: how it is reached from a protected disk. */
function chainsFrom({ mounts, graph, sources }: QuiesceFacts): Map<string, string[]> {
  const chains = new Map<string, string[]>();
  const open: string[] = [];
  const reach = (name: string, chain: string[]): void => {
    if (chains.has(name)) return;
    chains.set(name, chain);
    open.push(name);
  };
  for (const { title, devices } of sources) {
    for (const name of devices) reach(name, title === `/dev/${name}` ? [title] : [title, graph.title(name)]);
  }
  for (let name = open.shift(); name !== undefined; name = open.shift()) {
    const chain = chains.get(name) ?? [];
    for (const above of graph.above(name)) reach(above, [...chain, graph.title(above)]);
    for (const loop of graph.loops) {
      const host = superblockOfFile(mounts, loop.backingFile);
      const entry = mounts.find((mount) => mount.device === host);
      if (entry === undefined || !graph.devicesOf(entry).includes(name)) continue;
      reach(loop.name, [...chain, loop.backingFile, graph.title(loop.name)]);
    }
  }
  return chains;
}

/** Devices at the bottom of this one that no protected disk covers. */
function uncovered(
  facts: QuiesceFacts,
  covered: ReadonlySet<string>,
  name: string,
  seen: Set<string>,
): readonly string[] {
  if (covered.has(name) || seen.has(name)) return [];
  seen.add(name);
  const { mounts, graph } = facts;
  const loop = graph.loops.find((l) => l.name === name);
  const host = loop === undefined ? undefined : superblockOfFile(mounts, loop.backingFile);
  const entry = mounts.find((mount) => mount.device === host);
  const below = loop !== undefined && entry !== undefined ? graph.devicesOf(entry) : graph.below(name);
  if (below.length === 0) return [name];
  return below.flatMap((lower) => uncovered(facts, covered, lower, seen));
}

function applicationsOn(
  { found, configured }: QuiesceFacts,
  on: (path: string, device: string | null) => string | null,
): PlannedApplication[] {
  const free = [...configured];
  return found.flatMap(({ kind, title, data }) => {
    const places = data.map(({ path, device }) => ({ path, at: on(path, device) }));
    const mine = [...new Set(places.flatMap(({ at }) => at ?? []))];
    if (mine.length === 0) return [];
    // Two servers of a kind need two entries of the configuration.
    const index = free.findIndex((entry) => entry.kind === kind);
    const [taken] = index < 0 ? [] : free.splice(index, 1);
    const outside = places.flatMap(({ path, at }) => (at === null ? [path] : []));
    return [{ kind, title, on: mine, outside, quiescedAs: taken?.name ?? null }];
  });
}

function strongestOf(
  facts: QuiesceFacts,
  freeze: readonly PlannedFilesystem[],
  hooks: readonly string[],
): Pick<QuiescePlan, 'strongest' | 'reason'> {
  if (!facts.freezeEnabled) return { strongest: 'crash', reason: 'freezing is switched off in the configuration' };
  if (freeze.length === 0)
    return { strongest: 'crash', reason: 'no filesystem that can be frozen is mounted on the protected disks' };
  const helpers = [...facts.configured.map((entry) => entry.name), ...hooks];
  if (helpers.length === 0)
    return { strongest: 'filesystem', reason: 'no application is configured and there is no hook' };
  return { strongest: 'application', reason: `quiesced by ${helpers.join(', ')}` };
}

/** How an operator makes our points know a database. */
const NOT_CONFIGURED: Readonly<Record<ApplicationKind, string>> = {
  postgresql:
    'It recovers from its log after a restore. `applications: { postgresql: […] }` in agent.yaml shortens that and labels the point.',
  mysql: 'InnoDB recovers after a restore; other tables may not. `applications: { mysql: […] }` in agent.yaml.',
  redis: 'What it has not saved is lost in a restore. `applications: { redis: […] }` in agent.yaml.',
  other: 'Give it a hook in the folder of hooks if it can not recover from a power cut by itself.',
};

function warningsOf(
  facts: QuiesceFacts,
  freeze: readonly PlannedFilesystem[],
  skipped: readonly { readonly path: string; readonly fsType: string; readonly why: string }[],
  applications: readonly PlannedApplication[],
  on: (path: string, device: string | null) => string | null,
): PlanWarning[] {
  const warnings: PlanWarning[] = [];
  const warn = (code: PlanWarning['code'], text: string, hint: string): void =>
    void warnings.push({ code, text, hint });
  if (!facts.freezeEnabled)
    warn('freeze-disabled', 'filesystems are never frozen', 'Set `freeze: { enabled: true }` in agent.yaml.');
  if (freeze.length === 0 && facts.sources.length > 0)
    warn(
      'nothing-to-freeze',
      'no filesystem that can be frozen is mounted on the protected disks',
      'Points are crash-consistent: as after a power cut.',
    );
  for (const filesystem of freeze) {
    if (filesystem.uncovered.length === 0) continue;
    warn(
      'partly-protected',
      `${filesystem.fsType} at ${pathOf(filesystem)} also lies on ${filesystem.uncovered.map((name) => facts.graph.title(name)).join(', ')}`,
      'Protect that disk too: without it no point holds the whole filesystem.',
    );
  }
  for (const { path, fsType, why } of skipped) {
    if (why === 'cannot-freeze')
      warn('cannot-freeze', `${fsType} at ${path} can't be frozen`, 'It is only crash-consistent in any point.');
  }
  for (const { title, kind, outside, quiescedAs } of applications) {
    if (outside.length > 0)
      warn(
        'application-outside',
        `${title} has files outside the protected disks: ${outside.join(', ')}`,
        'Protect those disks too: without them no point holds all of it.',
      );
    if (quiescedAs === null && kind !== 'other')
      warn('application-not-configured', `${title} is not configured`, NOT_CONFIGURED[kind]);
  }
  for (const { name } of facts.configured.filter((c) => !applications.some((a) => a.quiescedAs === c.name))) {
    warn(
      'application-not-found',
      `no running server on the protected disks was found for ${name}`,
      'Application-consistent points need it: start it, or remove it from agent.yaml.',
    );
  }
  for (const { name, refused } of facts.hooks)
    if (refused !== null) warn('hook-refused', `hook ${name} is not run: ${refused}`, 'Correct it, or remove it.');
  for (const { path, use, device, what } of facts.own) {
    const at = use === 'log' ? on(path, device) : null;
    if (at !== null)
      warn(
        'log-on-frozen',
        `${what} (${path}) lies on the filesystem at ${at}, which is frozen for stronger points`,
        'Its lines are held back until the thaw; when the agent dies while frozen, they are lost.',
      );
  }
  return warnings;
}
