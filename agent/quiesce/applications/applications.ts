/**
 * The databases of a configuration, in the order in which they are prepared.
 */
import type { ApplicationsConfig } from '../config.js';
import type { Application } from './application.js';
import { Mysql } from './mysql.js';
import { Postgresql } from './postgresql.js';
import { Redis } from './redis.js';

export const applicationsOf = (config: ApplicationsConfig): Application[] => [
  ...config.redis.map((settings) => new Redis(settings)),
  ...config.mysql.map((settings) => new Mysql(settings)),
  // Last: its checkpoint is worth most just before the freeze.
  ...config.postgresql.map((settings) => new Postgresql(settings)),
];
