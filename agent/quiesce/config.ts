/**
 * The parts of agent.yaml that belong to quiescing: hooks, databases, schedule. Every key with its default.
 * A password is never in this file: a file of its own holds it, which only its owner may read.
 */
import { z } from 'zod';
import { absolutePath, durationValue, portValue } from '../../shared/config/values.js';
import {
  QUIESCE_APPLICATIONS_MAX,
  QUIESCE_DEADLINE_MAX_MS,
  QUIESCE_DEADLINE_MS,
  QUIESCE_HOOK_TIMEOUT_MS,
  QUIESCE_HOOKS_MAX,
} from '../../shared/limits-quiesce.js';
import { isCronExpression } from '../../shared/schedule.js';

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;

export const HOOKS_DIR = '/etc/afterimage/hooks.d';

const hookTimeout = durationValue(100, QUIESCE_DEADLINE_MAX_MS, '100ms to 15min');

export const hooksSchema = z.strictObject({
  /** Executables, called in the order of their names with `pre`, then with `post` or `abort`. */
  dir: absolutePath.default(HOOKS_DIR),
  /** For each call (ms). */
  timeout: hookTimeout.default(QUIESCE_HOOK_TIMEOUT_MS),
  /** For single hooks, by name. */
  timeouts: z
    .record(z.string(), hookTimeout)
    .refine((map) => Object.keys(map).length <= QUIESCE_HOOKS_MAX, `expected at most ${QUIESCE_HOOKS_MAX} names`)
    .default({}),
  /** A script as Site Recovery calls it, with `--pre` and `--post`: /usr/local/ASR/VX/scripts/customscript.sh. */
  script: absolutePath.optional(),
});

const name = z.string().regex(/^[\w.-]{1,40}$/, 'expected a name of letters, digits, dots, dashes, at most 40');

const passwordSchema = z.union(
  [
    /** The whole file, without the newline at its end. */
    z.strictObject({ file: absolutePath }),
    /** A line `VARIABLE=…` of a file, as systemd and Docker read them. */
    z.strictObject({ envFile: absolutePath, variable: z.string().regex(/^\w+$/, 'expected the name of a variable') }),
  ],
  { error: 'expected { file: /path } or { envFile: /path, variable: NAME }: a password itself is not taken here' },
);
export type PasswordSource = z.infer<typeof passwordSchema>;

const connection = {
  /** For points, logs and messages; must be unique. */
  name,
  /** A socket (for PostgreSQL the folder that it is in), or a host. */
  socket: absolutePath.optional(),
  host: z.string().min(1).optional(),
  port: portValue.optional(),
  user: z.string().min(1).optional(),
  /** Absent: the server knows us by the user of our process (`osUser`). */
  password: passwordSchema.optional(),
  /** User of this machine as whom the socket is opened: servers that trust it need no password. Absent: `user`, where there is no password; else root. */
  osUser: z.string().min(1).optional(),
  /** Where its files lie, when the server's own answer doesn't hold here (a container). All must lie on frozen filesystems. */
  dataDirs: z.array(absolutePath).max(16).optional(),
};

const postgresqlSchema = z.strictObject({
  ...connection,
  name: name.default('postgresql'),
  socket: absolutePath.default('/var/run/postgresql'),
  user: z.string().min(1).default('postgres'),
  database: z.string().min(1).default('postgres'),
});
const mysqlSchema = z.strictObject({
  ...connection,
  name: name.default('mysql'),
  socket: absolutePath.default('/run/mysqld/mysqld.sock'),
  user: z.string().min(1).default('root'),
});
const redisSchema = z.strictObject({
  ...connection,
  name: name.default('redis'),
  host: z.string().min(1).default('127.0.0.1'),
  port: portValue.default(6379),
});
export type PostgresqlSettings = z.infer<typeof postgresqlSchema>;
export type MysqlSettings = z.infer<typeof mysqlSchema>;
export type RedisSettings = z.infer<typeof redisSchema>;

export const applicationsSchema = z
  .strictObject({
    postgresql: z.array(postgresqlSchema).default([]),
    mysql: z.array(mysqlSchema).default([]),
    redis: z.array(redisSchema).default([]),
  })
  .superRefine((all, context) => {
    const names = [...all.postgresql, ...all.mysql, ...all.redis].map((entry) => entry.name);
    const twice = names.find((entry, index) => names.indexOf(entry) !== index);
    if (twice !== undefined) context.addIssue({ code: 'custom', message: `two applications are named ${twice}` });
    if (names.length > QUIESCE_APPLICATIONS_MAX)
      context.addIssue({ code: 'custom', message: `expected at most ${QUIESCE_APPLICATIONS_MAX} applications` });
  });
export type ApplicationsConfig = z.infer<typeof applicationsSchema>;

export const applicationPointsSchema = z
  .strictObject({
    /** Distance of application-consistent points (ms). Neither this nor `cron`: none by schedule, unless the receiver's policy says so. */
    every: durationValue(MINUTE_MS, 7 * DAY_MS, '1min to 7d').optional(),
    /** Five fields, local time: '15 0-23/4 * * *'. */
    cron: z
      .string()
      .refine(isCronExpression, "expected a cron expression of five fields, such as '15 */4 * * *'")
      .optional(),
    /** Each is made up to so much later, at random: machines of one host shouldn't all flush at once (ms). */
    jitter: durationValue(1, DAY_MS, '1ms to 1d').optional(),
    /** From the first application that is touched until all run freely again (ms). */
    deadline: durationValue(1_000, QUIESCE_DEADLINE_MAX_MS, '1s to 15min').default(QUIESCE_DEADLINE_MS),
  })
  .refine((points) => points.every === undefined || points.cron === undefined, 'expected `every` or `cron`, not both');
export type ApplicationPointsConfig = z.infer<typeof applicationPointsSchema>;
