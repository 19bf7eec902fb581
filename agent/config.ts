/**
 * Configuration of the agent, /etc/afterimage/agent.yaml: every key with its default. All keys are optional.
 * The receiver's address and the credentials are not here: they come from the enrolment and stand in the state directory.
 */
import { z } from 'zod';
import { loadConfigOrDefaults } from '../shared/config/load.js';
import {
  absolutePath,
  bytesValue,
  durationValue,
  hostPortValue,
  loopbackHost,
  logLevelValue,
  portValue,
} from '../shared/config/values.js';
import {
  CUT_DEADLINE_MS,
  FREEZE_DEADLINE_MS,
  HOOK_TIMEOUT_MS,
  POINT_INTERVAL_MS,
  RESUME_UNANSWERED_MS,
} from '../shared/limits.js';
import { DISK_RULES_MAX } from '../shared/limits-disks.js';
import { FLEET_MAX } from '../shared/limits-fleet.js';
import { bandwidthSchema, cpuSchema, ioSchema } from './load/config.js';
import { applicationPointsSchema, applicationsSchema, hooksSchema } from './quiesce/config.js';
import { REBOOT_WITHIN_MS } from '../shared/limits-service.js';

export const AGENT_CONFIG_PATH = '/etc/afterimage/agent.yaml';

const HOUR_MS = 3_600_000;

const commands = z.array(z.string('expected a command as text').min(1)).max(100).default([]);

/** At least one key; all that are given must fit. Texts may hold `*` and `?`. */
const diskRule = z
  .strictObject({
    id: z.string().min(1).max(200).optional(),
    serial: z.string().min(1).max(200).optional(),
    /** As in /dev: `sdb`, `nvme*`. */
    name: z.string().min(1).max(200).optional(),
    minSize: bytesValue.optional(),
    maxSize: bytesValue.optional(),
  })
  .refine((rule) => Object.keys(rule).length > 0, 'expected at least one of id, serial, name, minSize, maxSize');
const diskRules = z.array(diskRule).max(DISK_RULES_MAX).default([]);

export const agentConfigSchema = z.strictObject({
  stateDir: absolutePath.default('/var/lib/afterimage-agent'),
  /** Further addresses of receivers (host:port), tried when those that the agent was told of don't answer. They must have the CA of the enrolment. */
  receivers: z.array(hostPortValue).max(FLEET_MAX).default([]),
  /** Distance between crash-consistent recovery points (ms), unless the receiver's policy of this machine says otherwise. */
  interval: durationValue(1_000, 24 * HOUR_MS, '1s to 24h').default(POINT_INTERVAL_MS),
  status: z.strictObject({ host: loopbackHost.default('127.0.0.1'), port: portValue.default(7445) }).prefault({}),
  controlSocket: absolutePath.default('/run/afterimage-agent/control.sock'),
  /** Disks that are protected by themselves as soon as they are there: those that a rule of `include` fits and none of `exclude`. */
  disks: z.strictObject({ include: diskRules, exclude: diskRules }).prefault({}),
  /** What the agent may take of network, processor and disks, each with a schedule: keys in load/config.ts. */
  bandwidth: bandwidthSchema.prefault({}),
  cpu: cpuSchema.prefault({}),
  io: ioSchema.prefault({}),
  tracker: z
    .strictObject({
      prefer: z.enum(['auto', 'ebpf', 'scan']).default('auto'),
      mode: z.enum(['auto', 'btf', 'tracepoint']).default('auto'),
      pinDir: absolutePath.default('/sys/fs/bpf/afterimage'),
    })
    .prefault({}),
  /** Time for tries of a cut before the fallback (ms). */
  cut: z.strictObject({ deadline: durationValue(100, 60_000, '100ms to 1min').default(CUT_DEADLINE_MS) }).prefault({}),
  /** Whether filesystems may be frozen when a cut isn't reached, and for how long at most (ms). */
  freeze: z
    .strictObject({
      enabled: z.boolean('expected true or false').default(true),
      deadline: durationValue(100, 10_000, '100ms to 10s').default(FREEZE_DEADLINE_MS),
    })
    .prefault({}),
  /** What quiesces applications for application-consistent points, and when these are made: keys in quiesce/config.ts. */
  hooks: hooksSchema.prefault({}),
  applications: applicationsSchema.prefault({}),
  applicationPoints: applicationPointsSchema.prefault({}),
  /** Planned failover: what stops the workload and unmounts its disks, and what undoes that. Commands of /bin/sh, in order; the first that fails ends it. */
  failover: z
    .strictObject({
      preShutdown: commands,
      resume: commands,
      /** For each of the two, all its commands together (ms). */
      timeout: durationValue(1_000, 24 * HOUR_MS, '1s to 24h').default(HOOK_TIMEOUT_MS),
      /** A workload that was stopped for a last cut that came to nothing, as the session was lost, runs again after so long without a receiver's word (ms). */
      resumeAfter: durationValue(1_000, HOUR_MS, '1s to 1h').default(RESUME_UNANSWERED_MS),
    })
    .prefault({}),
  /** Whether the receiver may write points back onto the protected disks when the machine comes home. */
  failback: z.strictObject({ allow: z.boolean('expected true or false').default(true) }).prefault({}),
  /** Encrypts before anything leaves this machine, with the keys of this file (`afterimage-agent keys init`). Absent: it doesn't. */
  encryption: z.strictObject({ keyFile: absolutePath.optional() }).prefault({}),
  /** Whether tracking goes on over a clean reboot where nobody can have written in between, and how long the machine may be away for that (ms). */
  reboot: z
    .strictObject({
      continue: z.boolean('expected true or false').default(true),
      within: durationValue(60_000, HOUR_MS, '1min to 1h').default(REBOOT_WITHIN_MS),
      /** In memory: what the units of shutdown and boot tell each other. */
      runDir: absolutePath.default('/run/afterimage-reboot'),
    })
    .prefault({}),
  log: z.strictObject({ level: logLevelValue.default('info') }).prefault({}),
});
export type AgentConfig = z.infer<typeof agentConfigSchema>;

/** `path`: what the operator named, which must exist; undefined for the default path, which need not. */
export const loadAgentConfig = (path?: string): Promise<AgentConfig> =>
  loadConfigOrDefaults(path, AGENT_CONFIG_PATH, agentConfigSchema);
