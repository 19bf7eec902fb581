/**
 * `npm run drill [-- --rounds N] [--keep-logs]`: a machine is protected, burns, runs in the recovery site and comes home; then planned rounds there
 * and back. Says at each step how long it took and what the machine's own log proves. Exit code 1 when an acknowledged write is missing that a
 * promise covers.
 */
import { cpSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { formatDuration } from '../../shared/units.js';
import type { Job } from '../../receiver/catalog/recovery.js';
import { canRunLab, WHY_NO_LAB } from '../e2e/lab.js';
import { guestUnavailable, readWriterLog } from '../guest/guest.js';
import { Drill } from './drill.js';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '2' }, 'keep-logs': { type: 'string' } },
});
const rounds = Number(values.rounds);
const why = canRunLab ? guestUnavailable() : WHY_NO_LAB;
if (why !== null || !Number.isInteger(rounds) || rounds < 0) {
  process.stderr.write(`drill: ${why ?? `--rounds ${values.rounds} is not a number`}\n`);
  process.exit(2);
}

const startMs = performance.now();
const say = (text: string): void =>
  void process.stdout.write(`${((performance.now() - startMs) / 1000).toFixed(1).padStart(7)} s  ${text}\n`);
let failed = false;

const steps = (job: Job): string =>
  job.tasks
    .filter((t) => t.startedAtMs !== null && t.endedAtMs !== null && t.state !== 'Skipped')
    .map((t) => `${t.name} ${formatDuration((t.endedAtMs ?? 0) - (t.startedAtMs ?? 0))}`)
    .join(' · ');

/** Compares the guest's logs with what it acknowledged; `upTo`: what a promise covers. */
async function proof(drill: Drill, port: number, upTo = Infinity): Promise<void> {
  // The client goes on meanwhile: what it gets acknowledged after the log was read can't be in it.
  const last = Math.min(upTo, drill.client.acknowledged.at(-1) ?? 0);
  const count = drill.client.acknowledged.length;
  const writer = readWriterLog(await drill.fetchFrom(port, '/writer.log'));
  const { lines, missing } = drill.client.check(await drill.fetchFrom(port, '/data.log'), last);
  if (missing.length > 0) failed = true;
  const verdict = missing.length === 0 ? 'none is missing' : `MISSING: ${missing.join(', ')}`;
  say(
    `its log has ${lines} lines, ${count} were acknowledged${upTo === Infinity ? '' : ', those promised up to ' + String(upTo)}: ${verdict}; ${writer.lines} lines of its writer, no gap, none twice`,
  );
}

async function run(drill: Drill): Promise<void> {
  const { client, lab } = drill;
  say('a machine is protected: its disk is in the store, points every second');
  await drill.bootHome();
  await client.more(40);
  say(`it runs at home and has acknowledged ${client.acknowledged.length} lines`);

  await drill.burnHome();
  say('its host burns: guest and agent are gone in mid-write');
  const failover = await drill.operate('failover', '--yes');
  say(`failover: ${steps(failover)}`);
  const copy = (await drill.view()).recovery?.failover;
  const began = (await lab.points()).find((p) => p.number === copy?.point);
  say(`it runs again from point ${copy?.point ?? 0}; RTO ${formatDuration(copy?.rtoMs ?? NaN)}`);
  await proof(drill, drill.recoveryPort, client.lastBefore(began?.cutAtMs ?? 0));
  const { missing } = client.check(await drill.fetchFrom(drill.recoveryPort, '/data.log'));
  say(`acknowledged after that point's cut, and lost with the host: ${missing.length} lines`);
  client.port = drill.recoveryPort;
  await client.more(20);
  await drill.operate('commit');
  await lab.startAgent();
  client.port = null;
  const home = await drill.operate('failback');
  say(`failback: ${steps(home)}`);
  await drill.bootHome();
  await lab.untilProtected();
  await client.more(5);
  // What burnt is gone for good; all else must be there.
  const after = client.check(await drill.fetchFrom(drill.homePort, '/data.log')).missing;
  if (after.some((n) => !missing.includes(n))) failed = true;
  say(`at home again; nothing else is missing: ${after.every((n) => missing.includes(n)) ? 'yes' : 'NO'}`);
  for (const n of missing) client.forget(n);

  for (let round = 1; round <= rounds; round++) {
    await client.more(10);
    const there = await drill.operate('failover', '--planned', '--commit', '--yes');
    client.port = drill.recoveryPort;
    await client.more(10);
    say(`round ${round}, planned failover: ${steps(there)}`);
    await proof(drill, drill.recoveryPort);
    client.port = null;
    const back = await drill.operate('failback');
    await client.more(10, 120_000);
    await lab.untilProtected();
    say(`round ${round}, failback: ${steps(back)}`);
    await proof(drill, drill.homePort);
  }
  const verdicts = await lab.verifyAll();
  const bad = verdicts.filter((p) => !p.restorable);
  if (bad.length > 0) failed = true;
  say(`${verdicts.length} points in the store, ${bad.length} of them can not be restored`);
}

const drill = await Drill.open();
try {
  await run(drill);
} catch (error) {
  failed = true;
  say(error instanceof Error ? error.message : String(error));
} finally {
  if (values['keep-logs'] !== undefined) {
    for (const log of [drill.lab.agentLog, drill.lab.receiverLog]) {
      cpSync(log, `${values['keep-logs']}/${log.split('/').pop() ?? 'log'}`);
    }
  }
  await drill.cleanUp();
}
say(failed ? 'the drill FAILED' : 'the drill went well');
process.exit(failed ? 1 : 0);
