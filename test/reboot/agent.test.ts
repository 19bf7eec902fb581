/** A real agent over reboots of its disk: points hold what the disk held, whatever way it went down; and what that cost. */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { MIB } from '../../shared/units.js';
import type { DiskSnapshot } from '../../agent/status.js';
import { canRunLab, Lab, MACHINE_NAME } from '../e2e/lab.js';
import { RebootingMachine } from './machine.js';

const SIZE_BYTES = 96 * MIB;
const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

test.skipIf(!canRunLab)('clean: nothing is compared; unclean: only compared', { timeout: 400_000 }, async () => {
  const lab = await Lab.open({ disks: [], agent: (folder) => ({ reboot: { runDir: join(folder, 'run') } }) });
  undo.push(() => lab.cleanUp());
  const machine = new RebootingMachine(SIZE_BYTES, {
    stateDir: join(lab.folder, 'agent'),
    pinDirectory: lab.pinDirectory,
    runDir: join(lab.folder, 'run'),
  });
  lab.undo(() => machine.cleanUp());
  const fill = (name: string, megabytes = 1): void =>
    machine.inside(() =>
      machine.run(
        'dd',
        'if=/dev/urandom',
        `of=${machine.mountPoint}/${name}`,
        'bs=1M',
        `count=${megabytes}`,
        'conv=fsync',
      ),
    );
  const disk = async (): Promise<DiskSnapshot | undefined> => (await lab.status()).disks[0];
  let restores = 0;
  const proven = async (): Promise<void> => {
    const { point } = await lab.syncNow();
    const to = join(lab.folder, `restored-${restores++}`);
    const id = (await disk())?.id ?? '';
    const where = ['--to', `${id}=${to}`, '--state', join(lab.folder, 'restore')];
    await lab.command('cli', 'restore', MACHINE_NAME, '--point', String(point), ...where, '--read-back', '--json');
    execFileSync('cmp', [machine.loop.file, to]);
    rmSync(to);
  };

  machine.run('mkfs.ext4', '-q', '-F', machine.loop.device);
  await lab.startReceiver();
  await lab.enrol();
  await lab.command('agent', 'protect', machine.loop.device);
  await lab.startAgent();
  await lab.untilProtected();
  fill('first', 20);
  await proven();
  const series = (await disk())?.series;

  // Clean: written while no agent runs, closed, rebooted.
  await lab.agent?.stop();
  fill('second');
  expect((await machine.close()).state).toBe('closed');
  machine.reboot();
  expect((await machine.arm()).goesOn).toBe(true);
  fill('third');
  await lab.startAgent();
  await lab.untilProtected();
  await proven();
  expect(await disk()).toMatchObject({ series, lastSweep: null });

  // A power cut, amid everything.
  fill('fourth');
  await lab.agent?.kill();
  fill('fifth');
  machine.reboot();
  expect((await machine.arm()).goesOn).toBe(false);
  fill('sixth');
  await lab.startAgent();
  await lab.untilProtected();
  await proven();
  const compared = (await disk())?.lastSweep;
  expect(compared).toMatchObject({
    kind: 'comparison',
    reason: expect.stringMatching(/not shut down cleanly/) as string,
  });
  expect(compared?.readBytes).toBeGreaterThanOrEqual(SIZE_BYTES);
  // Three files of 1 MiB, and what a filesystem writes beside them; not the 20 MiB that the receiver has.
  expect(compared?.sentBytes).toBeLessThan(8 * MIB);
  expect((await disk())?.series).not.toBe(series);

  // An agent that starts makes an end of notes, whoever left them: the next boot must not find one that an agent has worked past.
  await lab.agent?.stop();
  expect((await machine.close()).state).toBe('closed');
  await lab.startAgent();
  await lab.untilProtected();
  await lab.agent?.stop();
  machine.reboot();
  expect((await machine.arm()).reason).toMatch(/not shut down cleanly/);
});
