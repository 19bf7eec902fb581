/**
 * What a receiver says of itself to others on the same store: `receivers/<id>/<n>`, create-if-absent, a new number at each sign of life. Reading and
 * writing only. A hint to find each other by, never a right: who may write a machine is decided by its manifests alone.
 */
import { z } from 'zod';
import {
  CALLS_MAX,
  RECEIVER_ADDRESSES_MAX,
  RECEIVER_RECORD_BYTES_MAX,
  RECEIVER_RECORDS_TIDIED,
} from '../../shared/limits-fleet.js';
import { isUuid } from '../../shared/units.js';
import { parseHostPort } from '../../shared/wire/host-port.js';
import { numberOfName, receiverName, receiverPrefix, RECEIVERS_PREFIX } from '../catalog/names.js';
import { openSealedJson, sealJson } from '../catalog/sealed-json.js';
import type { CreateResult, ListOptions, ObjectStore } from '../store/store.js';

export const RECEIVER_RECORD_VERSION = 1;

const count = z.number().int().nonnegative();
const uuid = z.string().refine(isUuid, 'not a UUID');

export const receiverRecordSchema = z.strictObject({
  version: z.literal(RECEIVER_RECORD_VERSION),
  id: uuid,
  number: count.min(1),
  /** Of the process: two with the same id find each other by it. */
  instance: uuid,
  name: z.string().max(200),
  /** host:port as agents reach it. */
  addresses: z
    .array(z.string().refine((text) => parseHostPort(text) !== null, 'not host:port'))
    .min(1)
    .max(RECEIVER_ADDRESSES_MAX),
  program: z.string().max(200),
  /** `leaving`: it was stopped; nothing follows until it is started again. */
  state: z.enum(['serving', 'leaving']),
  startedAtMs: count,
  /** Wall time of its own clock, for people. */
  writtenAtMs: count,
  heartbeatMs: count.min(1),
  /** Its share of the machines, relative to the others'. */
  weight: z.number().positive(),
  load: z.strictObject({ machines: count, bytesPerSecond: count }),
  /** Machines whose agents it calls over; left out when there are none. */
  calls: z.array(uuid).max(CALLS_MAX).default([]),
});
export type ReceiverRecord = z.infer<typeof receiverRecordSchema>;
export type ReceiverLoad = ReceiverRecord['load'];

export const createReceiverRecord = (
  store: ObjectStore,
  { calls, ...record }: Omit<ReceiverRecord, 'version'>,
): Promise<CreateResult> =>
  store.createIfAbsent(
    receiverName(record.id, record.number),
    sealJson({ version: RECEIVER_RECORD_VERSION, ...record, ...(calls.length === 0 ? {} : { calls }) }),
  );

/** Null when it is gone: its owner has written a newer one. */
export async function readReceiverRecord(
  store: ObjectStore,
  id: string,
  number: number,
): Promise<ReceiverRecord | null> {
  const name = receiverName(id, number);
  const bytes = await store.get(name, RECEIVER_RECORD_BYTES_MAX);
  return bytes === null ? null : openSealedJson(bytes, receiverRecordSchema, RECEIVER_RECORD_VERSION, name);
}

/** Numbers that stand under a receiver's name, ascending. */
export async function receiverNumbers(store: ObjectStore, id: string): Promise<number[]> {
  const numbers: number[] = [];
  for await (const { name } of store.list(receiverPrefix(id))) numbers.push(numberOfName(name));
  return numbers;
}

/**
 * The highest number of each receiver. Names that are not ours are passed over. One listing; but what lies far below a number that is known already (of a
 * store that lets nothing be deleted) is skipped by a listing that begins anew behind it.
 */
export async function highestNumbers(
  store: ObjectStore,
  known: ReadonlyMap<string, number> = new Map(),
): Promise<Map<string, number>> {
  const highest = new Map<string, number>();
  let after: string | null = null;
  do {
    const options: ListOptions = after === null ? {} : { after };
    after = null;
    for await (const { name } of store.list(RECEIVERS_PREFIX, options)) {
      const [id = '', text = ''] = name.slice(RECEIVERS_PREFIX.length).split('/');
      if (!isUuid(id) || !/^\d+$/.test(text)) continue;
      const number = Number(text);
      const from = known.get(id) ?? 0;
      if (number < from - RECEIVER_RECORDS_TIDIED) {
        after = receiverName(id, from - 1);
        break;
      }
      highest.set(id, Math.max(highest.get(id) ?? 0, number));
    }
  } while (after !== null);
  return highest;
}
