/**
 * What the machine stands on: kernel, devices, files, network. The real ones are made here; a simulation passes its own, so that the same
 * loop of connecting, replicating and waiting runs in it. Owns nothing.
 */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import type { Clock } from '../shared/clock.js';
import { MESSAGE_BUFFERS } from '../shared/limits.js';
import type { Transport } from '../shared/wire/transport.js';
import { AGENT_CONFIG_PATH, type AgentConfig } from './config.js';
import { MessagePool } from './cycle/chunk-sender.js';
import { ReadPool } from './cycle/read-pool.js';
import { WindowArena } from './cycle/window-arena.js';
import { describeMachine, hardwareId, type MachineDescription } from './describe.js';
import type { Source } from './disks/footprint.js';
import { IoPriority } from './load/io-priority.js';
import type { LoadParts } from './load/work-limits.js';
import { Sysfs } from './disks/sysfs.js';
import { FinalCut, type FinalCutDeps } from './final-cut.js';
import { SourceKeys } from './keys/source-keys.js';
import { bootId, openDisk, type OpenContext, type OpenedDisk } from './open-disk.js';
import { RuleProtection } from './protect-by-rule.js';
import { loadProtection, type ProtectedEntry, type ProtectionList } from './protection.js';
import { undoLeftovers } from './quiesce/machine-asked.js';
import { historyIn, type HistoryStore } from './quiesce/points/point-history.js';
import { planOfMachine } from './quiesce/plan/machine-plan.js';
import type { QuiescePlan } from './quiesce/plan/plan.js';
import { rebootReasons } from './reboot/outcome.js';
import { chunkPool } from './restore/pull.js';
import { DeviceTarget, type OpenTarget } from './restore/target.js';
import { connectToReceiver, type ConnectOptions } from './session/connect.js';
import { keepGeneration, type Credentials } from './session/credentials.js';
import { keepFleet, loadFleet } from './session/fleet-file.js';
import type { KnownFleet } from './session/route.js';
import { openTracker } from './tracker/open.js';
import type { MarkTracker } from './tracker/tracker.js';

/** Of a final cut, what a session uses. */
export type FinalCutting = Pick<FinalCut, 'isStopped' | 'run' | 'resume' | 'answered' | 'unanswered' | 'close'>;

export interface MachineParts {
  readonly sysfs: Sysfs;
  /** Null where this kernel can't track, with the reason. */
  readonly tracker: { readonly tracker: MarkTracker | null; readonly reason: string };
  readonly memory: { readonly reads: ReadPool; readonly messages: MessagePool; readonly arena: WindowArena };
  readonly hardwareId: () => string;
  readonly describe: () => MachineDescription;
  readonly protection: () => Promise<ProtectionList>;
  readonly openDisk: (
    entry: ProtectedEntry,
    list: ProtectionList,
    others: readonly OpenedDisk[],
    context: OpenContext,
  ) => Promise<OpenedDisk>;
  /** How the disks are written when the machine comes home. */
  readonly restore: {
    readonly openTarget: OpenTarget;
    /** Made when it is needed first, once: what is aligned for O_DIRECT is never freed. */
    readonly chunks: () => ReadPool;
  };
  readonly finalCut: (deps: FinalCutDeps) => Promise<FinalCutting>;
  readonly connect: (credentials: Credentials, options: ConnectOptions) => Promise<Transport>;
  /** The keys of this source; absent, or null: it doesn't encrypt. */
  readonly sourceKeys?: (machine: string) => Promise<SourceKeys | null>;
  /** The receivers that are known, over a restart. Absent: known by this process alone. */
  readonly fleet?: { readonly load: () => Promise<KnownFleet>; readonly keep: (fleet: KnownFleet) => Promise<void> };
  /** What a stronger point would freeze and quiesce, to be checked when disks are opened. Absent: nothing is checked. */
  readonly quiescePlan?: (sources: readonly Source[]) => QuiescePlan;
  /** Why tracking did not go on over the last reboot, by disk. */
  readonly rebootReasons?: () => Promise<ReadonlyMap<string, string>>;
  /** What is known of application-consistent points over a restart. Absent: known by this process alone. */
  readonly pointHistory?: HistoryStore;
  /** Lets applications go that an earlier agent held back. */
  readonly undoQuiesce?: () => Promise<void>;
  /** Protects disks by rule; true when there is a new one. Absent: there are no rules. */
  readonly protectByRule?: () => Promise<boolean>;
  /** What limits of load measure and set. Absent: no processor, no priorities. */
  readonly load?: LoadParts;
  /** Returns when the generation survives a crash. */
  readonly keepGeneration: (generation: number) => Promise<void>;
}

export function realParts(
  config: AgentConfig,
  { caPem }: Pick<Credentials, 'caPem'>,
  clock: Clock,
  log: Logger,
): MachineParts {
  const tracker = openTracker(config, clock);
  if (tracker.tracker === null) log.warn({ reason: tracker.reason }, 'change tracking is not possible on this machine');
  const sysfs = new Sysfs();
  let chunks: ReadPool | undefined;
  const rules = new RuleProtection(config, sysfs, log);
  return {
    sysfs,
    tracker,
    memory: { reads: new ReadPool(), messages: new MessagePool(MESSAGE_BUFFERS), arena: new WindowArena() },
    hardwareId: () => hardwareId(),
    describe: () => describeMachine(),
    protection: () => loadProtection(config.stateDir),
    openDisk,
    restore: {
      openTarget: (source, path, geometry) => DeviceTarget.open(sysfs, source, path, geometry),
      chunks: () => (chunks ??= chunkPool()),
    },
    finalCut: (deps) => FinalCut.open(deps),
    connect: connectToReceiver,
    sourceKeys: async (machine) =>
      config.encryption.keyFile === undefined ? null : SourceKeys.load(config.encryption.keyFile, machine),
    fleet: {
      load: () => loadFleet(config.stateDir, caPem),
      keep: (fleet) => keepFleet(config.stateDir, caPem, fleet),
    },
    quiescePlan: (sources) => planOfMachine(sysfs, sources, config, AGENT_CONFIG_PATH, true),
    rebootReasons: () => rebootReasons(config.reboot.runDir, bootId()),
    pointHistory: historyIn(config.stateDir),
    undoQuiesce: () => undoLeftovers({ config, clock, log, randomId: randomUUID }),
    ...(config.disks.include.length === 0 ? {} : { protectByRule: () => rules.look() }),
    load: {
      cpuUsedMs: () => {
        const { user, system } = process.cpuUsage();
        return (user + system) / 1000;
      },
      ioPriority: new IoPriority(config.io.idle, (reason) =>
        log.warn({ reason }, 'first copies and comparisons are not read at idle priority'),
      ),
    },
    keepGeneration: (generation) => keepGeneration(config.stateDir, generation),
  };
}
