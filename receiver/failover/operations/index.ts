/** What each operation does. */
import type { Operation } from '../../catalog/recovery.js';
import type { OperationDefinition } from '../task.js';
import { cancel } from './cancel.js';
import { changePoint } from './change-point.js';
import { commit } from './commit.js';
import { failback } from './failback.js';
import { failover } from './failover.js';
import { reprotect } from './reprotect.js';
import { cleanup, testFailover } from './test-failover.js';

export const DEFINITIONS: Readonly<Record<Operation, OperationDefinition>> = {
  'test-failover': testFailover,
  cleanup,
  failover,
  'planned-failover': failover,
  commit,
  'change-point': changePoint,
  cancel,
  reprotect,
  failback,
};
