/**
 * What a point tells about the group whose machines were cut together: part of the commit and of the manifest of each member. A point that has one was cut
 * while all members were frozen; whether all members' points of it were committed is for their manifests to say (receiver/catalog/group-points.ts).
 */
import { z } from 'zod';
import { GROUP_MEMBERS_MAX, GROUP_MEMBERS_MIN } from '../limits-groups.js';
import { isUuid, type MachineId } from '../units.js';

const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const uuid = z.string().refine(isUuid, 'not a UUID');
const machineId = z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id');
const ms = z.number().nonnegative();

export const groupNameSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$/, 'expected a name of letters, digits, dots, dashes, at most 40');

export const groupMembersSchema = z
  .array(machineId)
  .min(GROUP_MEMBERS_MIN)
  .max(GROUP_MEMBERS_MAX)
  .refine((members) => new Set(members).size === members.length, 'a member is named twice');

export const groupRecordSchema = z.strictObject({
  /** Of the group's point: the same in each member's. */
  point: uuid,
  group: uuid,
  name: groupNameSchema,
  /** All machines of it. */
  members: groupMembersSchema,
  /** Wall time of the coordinating receiver: the cuts of all members lie in between. */
  cutFromMs: count,
  cutToMs: count,
  /** No two members' cuts are further apart, by one clock: from the order to cut until the last one's word that it has. */
  skewMs: ms,
  /** From the order to freeze until the order to thaw: no machine was paused for longer by it, as seen from the coordinator. */
  frozenMs: ms,
});
export type GroupRecord = z.infer<typeof groupRecordSchema>;
