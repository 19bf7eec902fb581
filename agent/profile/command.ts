/**
 * `afterimage-agent profile`: the machine's own parts around the measurement. Changes nothing on disks, nor in the agent's state.
 */
import { existsSync } from 'node:fs';
import type { Clock } from '../../shared/clock.js';
import { parseDuration, parseRate } from '../../shared/config/parse-values.js';
import { usageError } from '../../shared/errors.js';
import { PROFILE_EVERY_MAX_MS, PROFILE_EVERY_MIN_MS, PROFILE_FOR_MAX_MS } from '../../shared/limits-profile.js';
import { formatDuration } from '../../shared/units.js';
import type { AgentConfig } from '../config.js';
import { ReadPool } from '../cycle/read-pool.js';
import { inspectDevice, type InspectedDevice } from '../disks/inspect.js';
import { Sysfs } from '../disks/sysfs.js';
import { IoPriority } from '../load/io-priority.js';
import { openTracker } from '../tracker/open.js';
import { loadProtection } from '../protection.js';
import { removeAllPins } from '../tracker/ebpf/objects.js';
import { profilePinDirectory, removeStalePins } from './changes.js';
import { measure } from './measure.js';
import { recommend, type Recommendation } from './recommend.js';
import type { Profile } from './report.js';

export interface ProfileOptions {
  readonly for: string;
  readonly every: string;
  readonly bandwidth?: string;
}

export interface ProfileTools {
  readonly clock: Clock;
  readonly random: () => number;
  readonly newUuid: () => string;
  readonly onSample: (sample: Profile['samples'][number]) => void;
}

/** "10min", and "10m" as people type it. */
function durationOf(option: string, text: string, minMs: number, maxMs: number): number {
  const ms = parseDuration(/^\d+m$/.test(text) ? `${text}in` : text);
  if (ms !== null && ms >= minMs && ms <= maxMs) return ms;
  throw usageError(
    `${option} ${text}: expected a duration of ${formatDuration(minMs)} to ${formatDuration(maxMs)}, such as 5s, 10min or 2h`,
  );
}

export async function profileCommand(
  config: AgentConfig,
  words: readonly string[],
  options: ProfileOptions,
  { clock, random, newUuid, onSample }: ProfileTools,
  signal: AbortSignal,
): Promise<{ readonly profile: Profile; readonly recommendation: Recommendation }> {
  const everyMs = durationOf('--every', options.every, PROFILE_EVERY_MIN_MS, PROFILE_EVERY_MAX_MS);
  const forMs = durationOf('--for', options.for, everyMs, PROFILE_FOR_MAX_MS);
  const bandwidth = options.bandwidth === undefined ? null : parseRate(options.bandwidth);
  if (options.bandwidth !== undefined && bandwidth === null)
    throw usageError(`--bandwidth ${options.bandwidth}: expected a rate with its unit, such as 20MB/s or 100Mbit/s`);
  const sysfs = new Sysfs();
  const devices = await devicesOf(config, words, sysfs, newUuid);
  removeStalePins(config.tracker.pinDir);
  const pinDir = profilePinDirectory(config.tracker.pinDir, process.pid);
  const { tracker, reason } = openTracker({ ...config, tracker: { ...config.tracker, pinDir } }, clock);
  new IoPriority(config.io.idle, () => undefined).idle();
  try {
    const parts = { devices, forMs, everyMs, sysfs, pool: new ReadPool(), tracker, trackerReason: reason };
    const profile = await measure({ ...parts, clock, random, onSample }, signal);
    return { profile, recommendation: recommend(profile, { bandwidth }) };
  } finally {
    tracker?.close();
    if (tracker !== null) removeAllPins(pinDir);
  }
}

/** The named devices, or the protected ones that are here. */
async function devicesOf(
  config: AgentConfig,
  words: readonly string[],
  sysfs: Sysfs,
  newUuid: () => string,
): Promise<InspectedDevice[]> {
  const list = await loadProtection(config.stateDir);
  const paths = words.length > 0 ? words : list.disks.map((d) => d.path).filter((path) => existsSync(path));
  if (paths.length === 0)
    throw usageError('no device is named, and none is protected', 'Name one: `afterimage-agent profile /dev/sda`.');
  const devices: InspectedDevice[] = [];
  for (const path of paths) {
    // Each by itself: whether they are protected already doesn't matter here.
    const device = inspectDevice(path, { sysfs, protectedDisks: [], kept: list.kept, newUuid });
    if (devices.some((other) => other.source.path === device.source.path))
      throw usageError(`${path} is named twice`, 'Its changes would be counted twice.');
    devices.push(device);
  }
  return devices;
}
