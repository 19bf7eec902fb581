import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { agentConfigSchema, loadAgentConfig } from '../../agent/config.js';
import { loadReceiverConfig, receiverConfigSchema } from '../../receiver/config.js';
import { loadConfig, loadConfigOrDefaults, parseConfig } from '../../shared/config/load.js';
import {
  isLoopback,
  parseBytes,
  parseDays,
  parseDuration,
  parseRate,
  parseTimeOfDay,
} from '../../shared/config/parse-values.js';
import { durationValue } from '../../shared/config/values.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'afterimage-config-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const problemOf = (text: string, schema: typeof agentConfigSchema | typeof receiverConfigSchema): string => {
  try {
    parseConfig('FILE', text, schema as typeof agentConfigSchema);
  } catch (error) {
    expect(error).toMatchObject({ kind: 'usage', exitCode: 2 });
    return (error as Error).message;
  }
  throw new Error('accepted');
};

test('an empty file is all defaults', () => {
  for (const text of ['', '# only a comment\n', '{}']) {
    expect(parseConfig('FILE', text, agentConfigSchema)).toEqual({
      stateDir: '/var/lib/afterimage-agent',
      receivers: [],
      interval: 5000,
      status: { host: '127.0.0.1', port: 7445 },
      controlSocket: '/run/afterimage-agent/control.sock',
      disks: { include: [], exclude: [] },
      bandwidth: { schedule: [] },
      cpu: { schedule: [] },
      io: { rate: { schedule: [] }, requests: { schedule: [] }, idle: true },
      tracker: { prefer: 'auto', mode: 'auto', pinDir: '/sys/fs/bpf/afterimage' },
      cut: { deadline: 2000 },
      freeze: { enabled: true, deadline: 2000 },
      hooks: { dir: '/etc/afterimage/hooks.d', timeout: 30_000, timeouts: {} },
      applications: { postgresql: [], mysql: [], redis: [] },
      applicationPoints: { deadline: 60_000 },
      failover: { preShutdown: [], resume: [], timeout: 300_000, resumeAfter: 30_000 },
      failback: { allow: true },
      encryption: {},
      reboot: { continue: true, within: 900_000, runDir: '/run/afterimage-reboot' },
      log: { level: 'info' },
    });
    expect(parseConfig('FILE', text, receiverConfigSchema)).toEqual({
      store: 'file:/var/lib/afterimage-receiver/store',
      stateDir: '/var/lib/afterimage-receiver',
      controlSocket: '/run/afterimage-receiver/control.sock',
      listen: { host: '::', port: 7443 },
      names: [],
      fleet: { heartbeat: 15_000, weight: 1, handoversPerMinute: 60 },
      status: { host: '127.0.0.1', port: 7444 },
      failover: {
        interval: 5000,
        cacheBytes: 8 * 2 ** 30,
        hydrate: { enabled: true },
        provider: 'qemu',
        accel: 'auto',
      },
      storeCache: { enabled: true, bytes: 2 * 2 ** 30 },
      policy: {
        intervalMs: null,
        applicationIntervalMs: null,
        retention: {
          tiers: [
            { everyMs: 0, upToMs: 2 * 3_600_000 },
            { everyMs: 3_600_000, upToMs: 24 * 3_600_000 },
            { everyMs: 2 * 3_600_000, upToMs: 7 * 24 * 3_600_000 },
            { everyMs: 4 * 3_600_000, upToMs: 15 * 24 * 3_600_000 },
          ],
          applicationTiers: [],
        },
      },
      encryption: { atRest: true, machineKeys: [] },
      scrub: {
        enabled: true,
        rate: 4_000_000,
        every: 14 * 24 * 3_600_000,
        prove: { by: 'interval', everyMs: 30 * 24 * 3_600_000 },
      },
      upkeep: { interval: 600_000, rate: 100 * 2 ** 20, deletionDelay: 3_600_000, readAmplification: 1.4 },
      log: { level: 'info' },
    });
  }
});

test('values are understood', () => {
  const text = `
interval: 10min
bandwidth:
  limit: 20MB/s
  schedule:
    - { days: mon-fri, from: '08:00', to: '18:00', limit: 100Mbit/s }
    - { from: '22:00', to: '06:00', limit: none }
cpu: { limit: 150%, schedule: [{ days: mon-fri, from: '08:00', to: '18:00', limit: 20% }] }
io:
  rate: { limit: 100kB/s }
  requests: { schedule: [{ from: '08:00', to: '18:00', limit: 500/s }] }
  idle: false
freeze: { enabled: false }
status: { host: '::1' }
`;
  expect(parseConfig('FILE', text, agentConfigSchema)).toMatchObject({
    interval: 600_000,
    bandwidth: {
      limit: 20_000_000,
      schedule: [
        { days: [1, 2, 3, 4, 5], from: 480, to: 1080, limit: 12_500_000 },
        { days: [0, 1, 2, 3, 4, 5, 6], from: 1320, to: 360, limit: null },
      ],
    },
    cpu: { limit: 1.5, schedule: [{ days: [1, 2, 3, 4, 5], from: 480, to: 1080, limit: 0.2 }] },
    io: { rate: { limit: 100_000 }, requests: { schedule: [{ from: 480, to: 1080, limit: 500 }] }, idle: false },
    freeze: { enabled: false, deadline: 2000 },
    status: { host: '::1', port: 7445 },
  });
});

test.each([
  ['unknown key', 'interval: 5s\nintervall: 5s', 'FILE:2: intervall: unknown key'],
  ['unknown key inside', 'tracker:\n\n  # here\n  prefers: scan', 'FILE:4: tracker.prefers: unknown key'],
  [
    'a number without a unit',
    '\ninterval: 5',
    'FILE:2: interval: expected a duration with its unit, such as 500ms, 5s, 10min or 2h (value 5)',
  ],
  [
    'a unit that does not exist',
    'interval: 5 sec',
    'FILE:1: interval: expected a duration with its unit, such as 500ms, 5s, 10min or 2h (value "5 sec")',
  ],
  ['out of bounds', 'interval: 1ms', 'FILE:1: interval: expected a duration of 1s to 24h (value "1ms")'],
  ['wrong kind', 'tracker: ebpf', 'FILE:1: tracker: Invalid input: expected object, received string (value "ebpf")'],
  [
    'choice',
    'tracker: { mode: fast }',
    'FILE:1: tracker.mode: Invalid option: expected one of "auto"|"btf"|"tracepoint" (value "fast")',
  ],
  [
    'within a list',
    "bandwidth:\n  schedule:\n    - { from: '08:00', to: '18:00', limit: 1MB/s }\n    - from: '25:00'\n      to: '18:00'\n      limit: 1MB/s",
    `FILE:4: bandwidth.schedule[1].from: expected a time of day in quotes, such as '08:00' (value "25:00")`,
  ],
  [
    'a key that is missing is told where it should be',
    "bandwidth:\n  schedule:\n    - from: '08:00'\n      limit: 1MB/s",
    `FILE:3: bandwidth.schedule[0].to: expected a time of day in quotes, such as '08:00'`,
  ],
  [
    'rate',
    'bandwidth: { limit: 0MB/s }',
    'FILE:1: bandwidth.limit: expected a rate with its unit, such as 20MB/s or 100Mbit/s (value "0MB/s")',
  ],
  [
    'rule limit',
    "bandwidth: { schedule: [{ from: '08:00', to: '18:00', limit: 5 }] }",
    'FILE:1: bandwidth.schedule[0].limit: expected a rate with its unit, such as 20MB/s or 100Mbit/s, or none (value 5)',
  ],
  [
    'share of a processor',
    'cpu: { limit: 0.5 }',
    'FILE:1: cpu.limit: expected a share of one processor, such as 30% (value 0.5)',
  ],
  [
    'share out of bounds',
    'cpu: { limit: 0.5% }',
    'FILE:1: cpu.limit: expected a share of one processor of 1% to 6400% (value "0.5%")',
  ],
  [
    'share in a schedule',
    "cpu:\n  schedule:\n    - { from: '08:00', to: '18:00', limit: half }",
    'FILE:3: cpu.schedule[0].limit: expected a share of one processor, such as 30%, or none (value "half")',
  ],
  [
    'too little to go on',
    'io:\n  rate: { limit: 99kB/s }',
    'FILE:2: io.rate.limit: expected a rate of at least 100kB/s (value "99kB/s")',
  ],
  [
    'reads per second',
    'io:\n  idle: true\n  requests: { limit: 500 }',
    'FILE:3: io.requests.limit: expected a number per second, such as 500/s (value 500)',
  ],
  [
    'a rule that takes everything',
    'disks:\n  include:\n    - {}',
    'FILE:3: disks.include[0]: expected at least one of id, serial, name, minSize, maxSize (value a mapping)',
  ],
  ['unknown limit', 'io: { iops: 500/s }', 'FILE:1: io.iops: unknown key'],
  ['boolean in words', 'freeze: { enabled: "yes" }', 'FILE:1: freeze.enabled: expected true or false (value "yes")'],
  [
    'status on the network',
    'status: { host: 0.0.0.0 }',
    'FILE:1: status.host: expected a loopback address (127.0.0.1, ::1, localhost): the status endpoint has no authentication, so it is not offered to the network (value "0.0.0.0")',
  ],
  ['not a mapping', '- a', 'FILE:1: the file: Invalid input: expected object, received array (value ["a"])'],
  [
    'several at once',
    'interval: x\nnope: 1',
    'FILE:1: interval: expected a duration with its unit, such as 500ms, 5s, 10min or 2h (value "x")\nFILE:2: nope: unknown key',
  ],
])('agent: %s', (_what, text, expected) => {
  expect(problemOf(text, agentConfigSchema)).toBe(expected);
});

test.each([
  ['port', 'listen: { port: 70000 }', /^FILE:1: listen\.port: .*\(value 70000\)$/],
  ['relative path', 'stateDir: var/lib', /^FILE:1: stateDir: expected an absolute path/],
  [
    'store',
    'store: /srv/x',
    /^FILE:1: store: expected a store URL, such as file:\/srv\/afterimage \(value "\/srv\/x"\)$/,
  ],
  ['a secret is not shown', 'log: { secret: hunter2 }', /^FILE:1: log\.secret: unknown key$/],
  ['not YAML', 'log:\n  level: "info\nx', /^FILE:\d: not valid YAML/],
  ['duplicate key', 'log: {}\nlog: {}', /^FILE:2: not valid YAML: Map keys must be unique/],
  ['anchors', 'a: &x [1]\nb: *x', /^FILE:2: \*x: aliases are not supported$/],
])('receiver: %s', (_what, text, expected) => {
  expect(problemOf(text, receiverConfigSchema)).toMatch(expected);
});

test('a named file must exist; the default one need not', async () => {
  const missing = join(folder, 'missing.yaml');
  await expect(loadConfig(missing, agentConfigSchema)).rejects.toMatchObject({
    kind: 'usage',
    exitCode: 2,
    message: `${missing}: there is no such configuration file`,
  });
  await expect(loadAgentConfig(missing)).rejects.toMatchObject({ kind: 'usage' });
  await expect(loadReceiverConfig(missing)).rejects.toMatchObject({ kind: 'usage' });
  await expect(loadConfigOrDefaults(undefined, missing, agentConfigSchema)).resolves.toMatchObject({ interval: 5000 });
});

test('the default file counts when it exists, and its errors too', async () => {
  const path = join(folder, 'agent.yaml');
  await writeFile(path, 'interval: 7s\n');
  await expect(loadConfigOrDefaults(undefined, path, agentConfigSchema)).resolves.toMatchObject({ interval: 7000 });
  await writeFile(path, 'interval: 7\n');
  await expect(loadConfigOrDefaults(undefined, path, agentConfigSchema)).rejects.toThrow(`${path}:1: interval:`);
  await expect(loadConfig(folder, agentConfigSchema)).rejects.toMatchObject({ kind: 'usage' });
});

test.each([
  ['64MiB', 67_108_864],
  ['2GB', 2e9],
  ['1.5 KiB', 1536],
  ['512B', 512],
  ['64', null],
  ['MiB', null],
  ['-1MiB', null],
  ['0B', null],
  ['1Mbit', null],
  ['9999999TiB', null],
])('size %s', (text, expected) => expect(parseBytes(text)).toBe(expected));

test.each([
  ['20MB/s', 20e6],
  ['100Mbit/s', 12.5e6],
  ['1 GiB/s', 2 ** 30],
  ['20MB', null],
  ['20Mb/s', null],
  ['/s', null],
])('rate %s', (text, expected) => expect(parseRate(text)).toBe(expected));

test.each([
  ['500ms', 500],
  ['5s', 5000],
  ['10min', 600_000],
  ['1.5h', 5_400_000],
  ['2d', 172_800_000],
  ['5m', null],
  ['5', null],
  ['', null],
])('duration %s', (text, expected) => expect(parseDuration(text)).toBe(expected));

test.each([
  ['00:00', 0],
  ['08:30', 510],
  ['24:00', 1440],
  ['24:01', null],
  ['8:30', null],
  ['08:60', null],
])('time of day %s', (text, expected) => expect(parseTimeOfDay(text)).toBe(expected));

test.each([
  ['daily', [0, 1, 2, 3, 4, 5, 6]],
  ['mon-fri', [1, 2, 3, 4, 5]],
  ['fri-mon', [0, 1, 5, 6]],
  ['sat,sun', [0, 6]],
  ['Mon, wed-thu', [1, 3, 4]],
  ['monday', null],
  ['mon-tue-wed', null],
  ['', null],
])('days %s', (text, expected) => expect(parseDays(text)).toEqual(expected));

test.each([
  ['127.0.0.1', true],
  ['127.9.9.9', true],
  ['::1', true],
  ['localhost', true],
  ['0.0.0.0', false],
  ['::', false],
  ['127.evil.example', false],
  ['localhost.example', false],
])('loopback %s', (host, expected) => expect(isLoopback(host)).toBe(expected));

test('a duration may be none where its bounds say so, and nowhere else', () => {
  expect(durationValue(0, 1000, '0s to 1s').parse('0s')).toBe(0);
  expect(durationValue(1, 1000, '1ms to 1s').safeParse('0s').success).toBe(false);
});

test.each([
  ['30d', { by: 'interval', everyMs: 30 * 86_400_000 }],
  ['0 3 * * sun', { by: 'cron', expression: '0 3 * * sun' }],
  ['0 3 30 2 *', null],
  ['500d', null],
  ['500ms', null],
  ['sometimes', null],
])('scrub.prove %s', (text, expected) => {
  const parsed = receiverConfigSchema.safeParse({ scrub: { prove: text } });
  if (expected !== null) return expect(parsed.data?.scrub.prove).toEqual(expected);
  expect(parsed.error?.issues[0]?.message).toMatch(/duration of 1s to 366d, or a cron expression of five fields/);
});
