/**
 * The receivers that this agent knows, kept over a restart: `<stateDir>/fleet.json`. A help to find another when the known one is gone, nothing more:
 * a file that can't be read counts as none, and the address of the enrolment is always there.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ownerFor, replaceFileDurably } from '../../shared/durable-file.js';
import { FLEET_MAX, FORMER_ADDRESSES_MAX } from '../../shared/limits-fleet.js';
import { fingerprintOf } from '../../shared/fingerprint.js';
import { hostPortSchema, knownReceiverSchema } from '../../shared/wire/messages.js';
import { NO_FLEET, type KnownFleet } from './route.js';

const MODE = 0o600;

const fleetFileSchema = z.strictObject({
  version: z.literal(1),
  /** Of the CA that they must have: another enrolment has other receivers. */
  ca: z.string(),
  receivers: z.array(knownReceiverSchema).max(FLEET_MAX),
  last: hostPortSchema.nullable(),
  former: z.array(hostPortSchema).max(FORMER_ADDRESSES_MAX),
});

const pathIn = (stateDir: string): string => join(stateDir, 'fleet.json');

export async function loadFleet(stateDir: string, caPem: string): Promise<KnownFleet> {
  try {
    const { ca, receivers, last, former } = fleetFileSchema.parse(JSON.parse(await readFile(pathIn(stateDir), 'utf8')));
    return ca === fingerprintOf(caPem) ? { receivers, last, former } : NO_FLEET;
  } catch {
    return NO_FLEET;
  }
}

export async function keepFleet(stateDir: string, caPem: string, fleet: KnownFleet): Promise<void> {
  const file = { version: 1, ca: fingerprintOf(caPem), ...fleet };
  const options = { mode: MODE, owner: await ownerFor(stateDir) };
  await replaceFileDurably(pathIn(stateDir), `${JSON.stringify(file, null, 2)}\n`, options);
}
