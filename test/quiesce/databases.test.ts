/**
 * PostgreSQL, MariaDB and Redis as they are quiesced: real servers, and a client beside them that sees what it costs.
 */
import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type mysql from 'mysql2/promise';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../../shared/config/load.js';
import { systemClock } from '../../shared/clock.js';
import { agentConfigSchema } from '../../agent/config.js';
import { deviceNumbers } from '../../agent/disks/footprint.js';
import { valueOf } from '../../agent/quiesce/applications/password.js';
import { parseReply, RespError } from '../../agent/quiesce/applications/resp.js';
import { hasBackupStages } from '../../agent/quiesce/applications/mysql.js';
import type { QuiesceTask } from '../../agent/quiesce/runner/protocol.js';
import { QuiesceRunner } from '../../agent/quiesce/runner/runner.js';
import { compile, type Compiled } from './compile.js';
import { isRoot } from './loop-disks.js';
import { hasMariadb, hasPostgres, hasRedis, Mariadb, Postgres, RedisServer } from './servers.js';

const RUNNER = 'agent/quiesce/runner/runner-main.ts';

let compiled: Compiled;
let folder: string;
beforeAll(() => {
  compiled = compile([RUNNER]);
  folder = mkdtempSync(join(tmpdir(), 'afterimage-databases-'));
  chmodSync(folder, 0o755);
});
afterAll(() => {
  compiled.remove();
  rmSync(folder, { recursive: true, force: true });
});

const runners: QuiesceRunner[] = [];
afterEach(async () => {
  for (const runner of runners.splice(0)) await runner.end('abort');
});

const start = async (applications: object, more: Partial<QuiesceTask> = {}): Promise<QuiesceRunner> => {
  const task: QuiesceTask = {
    id: 'id-1',
    label: 'afterimage-test',
    applications: parseConfig('test', JSON.stringify({ applications }), agentConfigSchema).applications,
    hooks: [],
    variables: {},
    deadlineMs: 30_000,
    heldMs: 4_000,
    frozen: { devices: [deviceNumbers(statSync(folder).dev).join(':')], paths: [] },
    notePath: join(folder, 'note'),
    ...more,
  };
  const runner = await QuiesceRunner.start(task, { clock: systemClock, program: compiled.path(RUNNER) });
  runners.push(runner);
  return runner;
};

const reasonOf = (report: object): string => ('reason' in report ? String(report.reason) : JSON.stringify(report));

describe.skipIf(!isRoot || !hasPostgres)('PostgreSQL', { timeout: 120_000 }, () => {
  let server: Postgres;
  beforeAll(async () => {
    server = new Postgres(join(folder, 'pg'), join(folder, 'pg-side'));
    server.init();
    server.allow(
      'local all postgres trust\nlocal all pgbackup peer map=m\nlocal all all trust\n',
      'm nobody pgbackup\n',
    );
    await server.start();
  });
  afterAll(() => server.stop());

  it('makes a checkpoint and a labelled restore point in its log', async () => {
    const client = await server.connect();
    await client.query('CREATE TABLE t AS SELECT generate_series(1, 10000) AS n');
    const runner = await start({ postgresql: [{ name: 'main', socket: server.side }] });
    const prepared = await runner.prepare();
    const { rows } = await client.query<{ redo: string }>('SELECT redo_lsn::text AS redo FROM pg_control_checkpoint()');
    const redo = rows[0]?.redo ?? '';
    expect(prepared).toMatchObject({ is: 'prepared', applications: [{ name: 'main' }] });
    expect(JSON.stringify(prepared)).toContain(`checkpoint at ${redo}`);
    expect(JSON.stringify(await runner.hold())).toContain('restore point \\"afterimage-test\\" at');
    // It is on disk before anything is frozen, whatever else happens.
    expect(server.logFrom(redo)).toContain('RESTORE_POINT afterimage-test');
    expect(await runner.release()).toMatchObject({ is: 'released', inTime: true });
    await client.end();
  });

  it('is refused where its files are not frozen, and nothing was done', async () => {
    const runner = await start({ postgresql: [{ socket: server.side }] }, { frozen: { devices: ['0:0'], paths: [] } });
    expect(reasonOf(await runner.prepare())).toContain(`postgresql: ${server.data} is on no filesystem that is frozen`);
  });

  it('connects as the user of this machine that the server knows, and needs no more rights than it says', async () => {
    const client = await server.connect();
    await client.query('CREATE ROLE pgbackup LOGIN');
    const as = (osUser?: string): object => ({ postgresql: [{ socket: server.side, user: 'pgbackup', osUser }] });
    expect(reasonOf(await (await start(as())).prepare())).toContain("can't connect as user pgbackup");
    expect(reasonOf(await (await start(as('daemon'))).prepare())).toContain(
      'Peer authentication failed for user "pgbackup"',
    );
    expect(reasonOf(await (await start(as('nobody'))).prepare())).toContain('pgbackup may not see where the data lies');
    await client.query('GRANT pg_read_all_settings TO pgbackup');
    expect(reasonOf(await (await start(as('nobody'))).prepare())).toContain('GRANT pg_checkpoint');
    await client.query('GRANT pg_checkpoint TO pgbackup');
    const runner = await start(as('nobody'));
    expect(JSON.stringify(await runner.prepare())).toContain('checkpoint at');
    expect(JSON.stringify(await runner.hold())).toContain('no restore point: user pgbackup may not make one');
    await runner.end('post');
    await client.query('GRANT EXECUTE ON FUNCTION pg_create_restore_point TO pgbackup');
    const able = await start(as('nobody'));
    await able.prepare();
    expect(JSON.stringify(await able.hold())).toContain('restore point \\"afterimage-test\\" at');
    await client.end();
  });

  it('says what is wrong with the connection, and never the password', async () => {
    const secret = join(folder, 'secret');
    writeFileSync(secret, 'hunter2\n', { mode: 0o644 });
    const password = { file: secret };
    const wrong = { socket: server.side, user: 'nobody-here', password };
    expect(reasonOf(await (await start({ postgresql: [wrong] })).prepare())).toContain('can be read by others');
    chmodSync(secret, 0o600);
    const reason = reasonOf(await (await start({ postgresql: [wrong] })).prepare());
    expect(reason).toContain('role "nobody-here" does not exist');
    expect(reason).not.toContain('hunter2');
    const away = reasonOf(await (await start({ postgresql: [{ socket: folder }] })).prepare());
    expect(away).toContain("postgresql: can't connect");
  });
});

// One that calls itself MySQL is held back as MySQL is: by a read lock.
describe.skipIf(!isRoot || !hasMariadb).each([
  ['MariaDB', []],
  ['MySQL', ['--version=8.0.36']],
] as const)('%s', { timeout: 120_000 }, (kind, more) => {
  let server: Mariadb;
  let client: mysql.Connection;
  beforeAll(async () => {
    server = new Mariadb(join(folder, kind), join(folder, `${kind}-side`));
    server.init();
    await server.start(undefined, ...more);
    client = await server.connect();
    await client.query('CREATE DATABASE d');
    await client.query('CREATE TABLE d.t (n INT PRIMARY KEY) ENGINE=InnoDB');
    await client.query('CREATE TABLE d.m (n INT PRIMARY KEY) ENGINE=MyISAM');
  });
  afterAll(async () => {
    await client.end();
    await server.stop();
  });
  beforeEach(async () => {
    await client.query('DELETE FROM d.t');
    await client.query('DELETE FROM d.m');
  });

  /** Tries to write at once; tells when it was done. */
  const writing = (table: string): { isDone: () => boolean; done: Promise<unknown> } => {
    let isDone = false;
    const done = client.query(`INSERT INTO ${table} VALUES (1)`).finally(() => (isDone = true));
    return { isDone: () => isDone, done };
  };

  const held = async (more: Partial<QuiesceTask> = {}): Promise<QuiesceRunner> => {
    const runner = await start({ mysql: [{ name: 'shop', socket: server.socket }] }, more);
    expect(await runner.prepare()).toMatchObject({ is: 'prepared', applications: [{ name: 'shop' }] });
    expect(await runner.hold()).toMatchObject({ is: 'held' });
    return runner;
  };

  it('says how it is held back, and makes a checkpoint before', async () => {
    const [[row]] = await client.query<mysql.RowDataPacket[]>("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'");
    const said = JSON.stringify(await (await start({ mysql: [{ socket: server.socket }] })).prepare());
    expect(said).toContain(kind === 'MySQL' ? 'MySQL 8.0.36: ' : 'MariaDB 1');
    expect(said).toContain(kind === 'MySQL' ? '; FLUSH TABLES WITH READ LOCK' : '; BACKUP STAGE');
    expect(Number(/checkpoint at (\d+)/.exec(said)?.[1])).toBeGreaterThanOrEqual(Number(row?.['Value']));
  });

  it('needs no right to a checkpoint', async () => {
    await client.query("CREATE USER IF NOT EXISTS backup@localhost IDENTIFIED BY 'hunter2'");
    await client.query('GRANT RELOAD ON *.* TO backup@localhost');
    const secret = join(folder, `${kind}-secret`);
    writeFileSync(secret, 'hunter2\n', { mode: 0o600 });
    const runner = await start({ mysql: [{ socket: server.socket, user: 'backup', password: { file: secret } }] });
    expect(JSON.stringify(await runner.prepare())).toContain('no checkpoint: user backup may not ask for one');
    expect(await runner.hold()).toMatchObject({ is: 'held' });
    expect(await runner.release()).toMatchObject({ is: 'released', inTime: true });
  });

  it('connects as the user of this machine that the server knows', async () => {
    await client.query('CREATE USER IF NOT EXISTS nobody@localhost IDENTIFIED VIA unix_socket');
    await client.query('GRANT RELOAD ON *.* TO nobody@localhost');
    const as = (more: object): object => ({ mysql: [{ socket: server.socket, user: 'nobody', ...more }] });
    expect(reasonOf(await (await start(as({ osUser: 'daemon' }))).prepare())).toContain('Access denied');
    const runner = await start(as({}));
    expect(await runner.prepare()).toMatchObject({ is: 'prepared' });
    expect(await runner.hold()).toMatchObject({ is: 'held' });
  });

  it.each(['d.t', 'd.m'])('holds commits back until it is told to let go: %s', async (table) => {
    const runner = await held();
    const write = writing(table);
    await systemClock.sleep(300);
    expect(write.isDone()).toBe(false);
    expect(await runner.release()).toMatchObject({ is: 'released', inTime: true });
    await write.done;
    expect(await runner.end('post')).toMatchObject({ is: 'ended', cause: 'command' });
  });

  it('lets go at its limit by itself, and says that it did not hold', async () => {
    const runner = await held({ heldMs: 500 });
    const write = writing('d.t');
    await write.done;
    expect(await runner.release()).toMatchObject({ is: 'released', inTime: false });
  });

  it('the server lets go when the process is killed', async () => {
    const runner = await held();
    const write = writing('d.t');
    await systemClock.sleep(100);
    expect(write.isDone()).toBe(false);
    process.kill(runner.pid ?? 0, 'SIGKILL');
    await write.done;
    expect(await runner.release()).toMatchObject({ is: 'lost' });
  });

  // The same for both: it is the session's.
  if (kind === 'MariaDB')
    it('the server lets go when the process is stopped, a little after the limit', async () => {
      const runner = await held({ heldMs: 1_000 });
      process.kill(runner.pid ?? 0, 'SIGSTOP');
      const startMs = performance.now();
      await writing('d.t').done;
      expect(performance.now() - startMs).toBeGreaterThan(1_000);
      process.kill(runner.pid ?? 0, 'SIGCONT');
      expect(await runner.release()).toMatchObject({ is: 'released', inTime: false });
    });

  it('does not wait long for a statement that keeps the lock from it', async () => {
    const busy = await server.connect();
    await busy.query('LOCK TABLES d.m WRITE');
    const runner = await start({ mysql: [{ socket: server.socket }] });
    await runner.prepare();
    expect(reasonOf(await runner.hold())).toContain('Lock wait timeout exceeded');
    await busy.query('UNLOCK TABLES');
    await busy.end();
    await writing('d.t').done;
  });
});

describe.skipIf(!hasRedis)('Redis', { timeout: 60_000 }, () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = new RedisServer(join(folder, 'redis'), join(folder, 'redis-side'));
    await server.start('--requirepass', 'hunter2');
  });
  afterAll(() => server.stop());

  const password = (text: string): object => {
    const path = join(folder, 'redis-env');
    writeFileSync(path, `# secrets\nREDIS_PASSWORD="${text}"\n`, { mode: 0o600 });
    return { envFile: path, variable: 'REDIS_PASSWORD' };
  };

  it('saves, and waits for that', async () => {
    server.cli('-a', 'hunter2', 'SET', 'a', 'kept');
    const runner = await start({ redis: [{ socket: server.socket, password: password('hunter2') }] });
    expect(await runner.prepare()).toMatchObject({ is: 'prepared', applications: [{ name: 'redis' }] });
    await runner.end('post');
    // As after a power cut: what wasn't saved is gone.
    await server.kill();
    rmSync(server.socket, { force: true });
    await server.start('--enable-protected-configs', 'yes');
    expect(server.cli('GET', 'a')).toBe('kept');
  });

  it('says that its save failed', async () => {
    // Its folder becomes one in which it can't write, even as root.
    server.cli('CONFIG', 'SET', 'dir', '/proc/self');
    const runner = await start({ redis: [{ socket: server.socket, dataDirs: [folder] }] });
    expect(reasonOf(await runner.prepare())).toContain('its save failed');
    server.cli('CONFIG', 'SET', 'dir', server.data);
  });

  it('says that the password is wrong, and never which it was', async () => {
    server.cli('CONFIG', 'SET', 'requirepass', 'hunter2');
    const runner = await start({ redis: [{ socket: server.socket, password: password('hunter3') }] });
    const reason = reasonOf(await runner.prepare());
    expect(reason).toContain('redis: AUTH: WRONGPASS');
    expect(reason).not.toContain('hunter');
  });
});

describe('replies of Redis', () => {
  it.each([
    ['+OK\r\n', 'OK'],
    [':42\r\n', '42'],
    ['$5\r\na\r\nbc\r\n', 'a\r\nbc'],
    ['$-1\r\n', null],
    ['*2\r\n$3\r\ndir\r\n$1\r\n/\r\n', ['dir', '/']],
  ])('%j', (bytes, reply) => {
    const all = Buffer.from(bytes);
    expect(parseReply(all, 0)).toEqual({ reply, end: all.length });
    for (let length = 0; length < all.length; length++) expect(parseReply(all.subarray(0, length), 0)).toBe(null);
  });

  it('errors are errors, and other servers are told', () => {
    expect(parseReply(Buffer.from('-ERR no\r\n'), 0)?.reply).toBeInstanceOf(RespError);
    expect(() => parseReply(Buffer.from('HTTP/1.1 400 Bad Request\r\n'), 0)).toThrow('not a Redis server');
  });
});

describe('passwords in files of variables', () => {
  it.each([
    ['A=1\nB=2\nA=3\n', '3'],
    [`  export A="x y"  \n`, 'x y'],
    ["A='it''s'", "it''s"],
    ['A=\n', ''],
    ['# A=1\nAA=2\n', null],
    ['A=a=b', 'a=b'],
  ])('%j', (text, value) => {
    expect(valueOf(text, 'A')).toBe(value);
  });
});

describe('backup stages', () => {
  it.each([
    ['10.4.0-MariaDB', false],
    ['8.0.36', false],
    ['5.7.1-log', false],
    ['10.11.6-MariaDB-0+deb12u1', true],
    ['10.4.1-MariaDB', true],
    ['11.4.2-MariaDB', true],
  ])('%s', (version, has) => {
    expect(hasBackupStages(version)).toBe(has);
  });
});
