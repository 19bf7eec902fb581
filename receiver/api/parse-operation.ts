/**
 * An operation as it arrives from outside, checked: what is wrong is said with the field's name. Pure.
 */
import { z } from 'zod';
import { usageError } from '../../shared/errors.js';
import { labelSchema } from '../../shared/wire/quiesce-record.js';
import { UPKEEP_TASKS, type UpkeepTask } from '../upkeep/task-result.js';
import { operationRequestSchema, type OperationRequest } from '../failover/operations.js';

const upkeepSchema = z.strictObject({ tasks: z.array(z.enum(UPKEEP_TASKS)).min(1) });

export function parseUpkeepTasks(input: unknown): UpkeepTask[] {
  const parsed = upkeepSchema.safeParse(input);
  if (parsed.success) return parsed.data.tasks;
  throw usageError(`the request is not valid: ${parsed.error.issues.map(describeIssue).join('; ')}`);
}

const groupPointSchema = z.strictObject({ label: labelSchema.optional() });

export function parseGroupPoint(input: unknown): z.infer<typeof groupPointSchema> {
  const parsed = groupPointSchema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw usageError(`the request is not valid: ${parsed.error.issues.map(describeIssue).join('; ')}`);
}

export function parseOperation(input: unknown): OperationRequest {
  const parsed = operationRequestSchema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw usageError(`the request is not valid: ${parsed.error.issues.map(describeIssue).join('; ')}`);
}

function describeIssue(issue: z.core.$ZodIssue): string {
  const path = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => `${[...path, key].join('.')}: unknown field`).join('; ');
  }
  return `${path.length === 0 ? 'body' : path.join('.')}: ${issue.message}`;
}
