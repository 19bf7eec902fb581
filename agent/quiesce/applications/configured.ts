/**
 * The databases that a configuration names, without loading what speaks to them.
 */
import type { ApplicationsConfig } from '../config.js';
import type { ConfiguredApplication } from '../plan/plan.js';

export const configuredApplications = ({ redis, mysql, postgresql }: ApplicationsConfig): ConfiguredApplication[] => [
  ...redis.map(({ name }) => ({ name, kind: 'redis' as const })),
  ...mysql.map(({ name }) => ({ name, kind: 'mysql' as const })),
  ...postgresql.map(({ name }) => ({ name, kind: 'postgresql' as const })),
];
