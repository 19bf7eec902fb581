/**
 * Configuration of the receiver, /etc/afterimage/receiver.yaml: every key with its default. All keys are optional.
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
  rateValue,
} from '../shared/config/values.js';
import { scheduleValue } from '../shared/config/schedule-value.js';
import { STORE_CACHE_BYTES } from '../shared/limits-store.js';
import { COPY_CACHE_BYTES, POINT_INTERVAL_MS } from '../shared/limits.js';
import { HANDOVERS_PER_MINUTE, RECEIVER_ADDRESSES_MAX, RECEIVER_HEARTBEAT_MS } from '../shared/limits-fleet.js';
import { policySchema } from './catalog/policy.js';
import { encryptionSchema } from './keys/config.js';
import { PROVE_EVERY_MS, SCRUB_BYTES_PER_SECOND, SCRUB_EVERY_MS } from '../shared/limits-scrub.js';
import {
  DELETION_DELAY_MS,
  READ_AMPLIFICATION_MAX,
  UPKEEP_BYTES_PER_SECOND,
  UPKEEP_INTERVAL_MS,
} from '../shared/limits-upkeep.js';
import { DEFAULT_CONTROL_SOCKET, DEFAULT_STATE_DIR, RECEIVER_CONFIG_PATH } from './default-paths.js';

export { DEFAULT_CONTROL_SOCKET, DEFAULT_STATE_DIR, RECEIVER_CONFIG_PATH };

export const receiverConfigSchema = z.strictObject({
  /** URL of the object store. */
  store: z
    .string('expected a store URL')
    .regex(/^[a-z][a-z0-9+.-]*:.+$/, 'expected a store URL, such as file:/srv/afterimage')
    .default('file:/var/lib/afterimage-receiver/store'),
  /** Newest objects of a store in a bucket, kept on this host so that upkeep's reads cost no requests. A folder needs none. */
  storeCache: z
    .strictObject({
      enabled: z.boolean().default(true),
      /** Where it lies, in a folder of its own that is emptied at each start. Default: `stateDir`. */
      folder: absolutePath.optional(),
      bytes: bytesValue.default(STORE_CACHE_BYTES),
    })
    .prefault({}),
  /** CA and enrolment tokens. Losing it means enrolling the agents again, never losing data. */
  stateDir: absolutePath.default(DEFAULT_STATE_DIR),
  /** Where `afterimage` reaches this receiver; for its owner alone. */
  controlSocket: absolutePath.default(DEFAULT_CONTROL_SOCKET),
  /** `::` takes IPv4 as well; where the kernel has no IPv6, 0.0.0.0 is used instead. */
  listen: z
    .strictObject({ host: z.string('expected an address').min(1).default('::'), port: portValue.default(7443) })
    .prefault({}),
  /** Further names and addresses that the receiver's certificate holds, for other clients than our agents. */
  names: z.array(z.string().regex(/^[A-Za-z0-9.:_-]{1,253}$/, 'expected a host name or an IP address')).default([]),
  /** Where agents reach this receiver (host:port), told to them and to other receivers on the store. Default: this host's name and the port. */
  advertise: z.array(hostPortValue).min(1).max(RECEIVER_ADDRESSES_MAX).optional(),
  /** Several receivers on one store. */
  fleet: z
    .strictObject({
      /** For people; default: this host's name. */
      name: z.string().min(1).max(100).optional(),
      /** A receiver counts as gone after three silent ones. Each costs 3 requests to the store, and a small read for each other receiver. */
      heartbeat: durationValue(200, 10 * 60_000, '200ms to 10min').default(RECEIVER_HEARTBEAT_MS),
      /** Share of the machines, relative to the other receivers'. */
      weight: z
        .number('expected a number')
        .min(0.01, 'expected 0.01 to 100')
        .max(100, 'expected 0.01 to 100')
        .default(1),
      /** Machines that are handed to other receivers per minute when they come. */
      handoversPerMinute: z.int().min(1).max(100_000).default(HANDOVERS_PER_MINUTE),
    })
    .prefault({}),
  status: z.strictObject({ host: loopbackHost.default('127.0.0.1'), port: portValue.default(7444) }).prefault({}),
  /** Machines that are failed over to this host. */
  failover: z
    .strictObject({
      /** Volumes of running copies, the guests' sockets and logs. Default: `copies` in `stateDir`. A short path: sockets are in it. */
      folder: absolutePath.optional(),
      /** Distance between the points of a running copy. */
      interval: durationValue(500, 24 * 3_600_000, '500ms to 24h').default(POINT_INTERVAL_MS),
      /** What each volume keeps of its recovery point while it isn't hydrated; written blocks don't count. */
      cacheBytes: bytesValue.default(COPY_CACHE_BYTES),
      /** Makes the disks of a failover local behind the guest, so that it needs the store for reading no more. */
      hydrate: z.strictObject({ enabled: z.boolean().default(true), rate: rateValue.optional() }).prefault({}),
      /** Used where neither the command nor the machine's launch settings name one. */
      provider: z.enum(['qemu', 'command', 'none']).default('qemu'),
      accel: z.enum(['auto', 'kvm', 'tcg']).default('auto'),
    })
    .prefault({}),
  /** How often points are made and how long they are kept, of machines without a policy of their own (`afterimage policy`). */
  policy: policySchema.prefault({}),
  /** Nothing is encrypted by the receiver unless a provider is set; see keys/config.ts. */
  encryption: encryptionSchema.prefault({}),
  /** Reads what is stored again, finds what has rotted, and has it mended. */
  scrub: z
    .strictObject({
      enabled: z.boolean().default(true),
      /** Of all machines together. */
      rate: rateValue.default(SCRUB_BYTES_PER_SECOND),
      /** Every object is read once in this time, if the rate allows it. */
      every: durationValue(1_000, 366 * 24 * 3_600_000, '1s to 366d').default(SCRUB_EVERY_MS),
      /** Points are proven from end to end, the newest and one at random: each reads a whole image. An interval, or a cron expression in local time. */
      prove: scheduleValue(1_000, 366 * 24 * 3_600_000, '1s to 366d').default({
        by: 'interval',
        everyMs: PROVE_EVERY_MS,
      }),
    })
    .prefault({}),
  /** Thinning out points, merging layers, building bases, deleting what nobody needs any more. */
  upkeep: z
    .strictObject({
      /** Each machine is looked after this often. */
      interval: durationValue(1_000, 24 * 3_600_000, '1s to 24h').default(UPKEEP_INTERVAL_MS),
      /** What it reads and writes at most, for all machines together. */
      rate: rateValue.default(UPKEEP_BYTES_PER_SECOND),
      /** So long an object stays in the store after nothing names it any more: a grace for readers, and for mistakes. */
      deletionDelay: durationValue(0, 365 * 24 * 3_600_000, '0s to 365d').default(DELETION_DELAY_MS),
      /** A segment's base is built anew when a restore of the newest point would read so many times what a fresh one has, and there is room for it. */
      readAmplification: z
        .number('expected a number')
        .min(1.05, 'expected 1.05 to 100')
        .max(100, 'expected 1.05 to 100')
        .default(READ_AMPLIFICATION_MAX),
    })
    .prefault({}),
  log: z.strictObject({ level: logLevelValue.default('info') }).prefault({}),
});
export type ReceiverConfig = z.infer<typeof receiverConfigSchema>;

/** `path`: what the operator named, which must exist; undefined for the default path, which need not. */
export const loadReceiverConfig = (path?: string): Promise<ReceiverConfig> =>
  loadConfigOrDefaults(path, RECEIVER_CONFIG_PATH, receiverConfigSchema);
