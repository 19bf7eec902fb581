/** What is found of running servers: a process that is named like one, with files open on a loop device. */
import { spawn, type ChildProcess } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { findApplications } from '../../agent/quiesce/plan/applications.js';
import { until } from './loop-disks.js';

describe('running servers', () => {
  const children: ChildProcess[] = [];
  let folder = '';
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });

  /** `sleep` under another name, in a folder of its own, with one file open for writing. */
  const pretend = async (name: string, home: string, written: string): Promise<number> => {
    const program = join(folder, name);
    copyFileSync('/usr/bin/sleep', program);
    const child = spawn('sh', ['-c', 'exec "$0" 600 7>"$1" 8<"$2"', program, written, '/etc/hostname'], { cwd: home });
    children.push(child);
    await until('it runs', () => findApplications().some(({ pid }) => pid === child.pid));
    return child.pid ?? 0;
  };

  it('are known by their program; their data is where they are at home, write, and where links lead', async () => {
    folder = mkdtempSync(join(tmpdir(), 'afterimage-found-'));
    const home = join(folder, 'pg');
    mkdirSync(join(home, 'pg_tblspc'), { recursive: true });
    symlinkSync('/dev/shm', join(home, 'pg_tblspc/16384'));
    const pid = await pretend('postgres', home, join(home, 'data'));
    const found = findApplications().find((application) => application.pid === pid);
    expect(found).toMatchObject({ kind: 'postgresql', title: `PostgreSQL (process ${pid}) in ${home}` });
    expect(found?.data.map(({ path }) => path)).toEqual([home, '/dev/shm']);
  });

  it('are nothing else: neither other programs nor files that are only read or thrown away', async () => {
    folder = mkdtempSync('/dev/shm/afterimage-found-');
    const pid = await pretend('mariadbd', folder, join(tmpdir(), 'afterimage-scratch'));
    rmSync(join(tmpdir(), 'afterimage-scratch'), { force: true });
    expect(
      findApplications()
        .find((application) => application.pid === pid)
        ?.data.map(({ path }) => path),
    ).toEqual([folder]);
    expect(findApplications().every(({ title }) => !title.includes('sleep'))).toBe(true);
  });
});
