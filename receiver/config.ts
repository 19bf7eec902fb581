/**
 * Configuration of the receiver, /etc/afterimage/receiver.yaml: every key with its default. All keys are optional.
 */
import { z } from 'zod';
import { loadConfigOrDefaults } from '../shared/config/load.js';
import { absolutePath, loopbackHost, logLevelValue, portValue } from '../shared/config/values.js';

export const RECEIVER_CONFIG_PATH = '/etc/afterimage/receiver.yaml';

export const receiverConfigSchema = z.strictObject({
  /** URL of the object store. */
  store: z
    .string('expected a store URL')
    .regex(/^[a-z][a-z0-9+.-]*:.+$/, 'expected a store URL, such as file:/srv/afterimage')
    .default('file:/var/lib/afterimage-receiver/store'),
  /** CA and enrolment tokens. Losing it means enrolling the agents again, never losing data. */
  stateDir: absolutePath.default('/var/lib/afterimage-receiver'),
  /** `::` takes IPv4 as well; where the kernel has no IPv6, 0.0.0.0 is used instead. */
  listen: z
    .strictObject({ host: z.string('expected an address').min(1).default('::'), port: portValue.default(7443) })
    .prefault({}),
  /** Further names and addresses that the receiver's certificate holds, for other clients than our agents. */
  names: z.array(z.string().regex(/^[A-Za-z0-9.:_-]{1,253}$/, 'expected a host name or an IP address')).default([]),
  status: z.strictObject({ host: loopbackHost.default('127.0.0.1'), port: portValue.default(7444) }).prefault({}),
  log: z.strictObject({ level: logLevelValue.default('info') }).prefault({}),
});
export type ReceiverConfig = z.infer<typeof receiverConfigSchema>;

/** `path`: what the operator named, which must exist; undefined for the default path, which need not. */
export const loadReceiverConfig = (path?: string): Promise<ReceiverConfig> =>
  loadConfigOrDefaults(path, RECEIVER_CONFIG_PATH, receiverConfigSchema);
