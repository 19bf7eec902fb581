/**
 * A final cut whose session is lost before the last point was handed over: the workload runs again once no receiver says otherwise, and stays down when the
 * machine was failed over meanwhile.
 */
import { describe, expect, it } from 'vitest';
import { FinalCut, type FinalCutDeps } from '../../agent/final-cut.js';
import type { FinalCutGround } from '../../agent/final-cut-ground.js';
import { SessionEnded } from '../../agent/session/session.js';
import { silentLogger } from '../../shared/log.js';
import { ManualClock } from '../helpers/manual-clock.js';

const LOST = new SessionEnded('connection to the receiver ended', null);
const RESUME_AFTER_MS = 30_000;
const ORDER = { type: 'final-cut', request: 1, hookTimeoutMs: 10_000 } as const;

/** A host on which processes of the agent come and go. */
class Host {
  readonly clock = new ManualClock();
  readonly ran: string[] = [];
  shown: string | null = null;
  resumeFails = false;
  #note: string | null = null;

  open(): Promise<FinalCut> {
    const note: FinalCutGround['note'] = {
      path: 'note',
      load: () => Promise.resolve(this.#note),
      keep: async (text) => void (this.#note = text),
      remove: async () => void (this.#note = null),
    };
    const runHook: FinalCutGround['runHook'] = ([command = '']) => {
      this.ran.push(command);
      const ok = command !== 'start' || !this.resumeFails;
      return Promise.resolve(ok ? { ok, output: [] } : { ok, reason: 'exit code 1', output: [] });
    };
    const deps = {
      config: { failover: { preShutdown: ['stop'], resume: ['start'], timeout: 10_000, resumeAfter: RESUME_AFTER_MS } },
      status: { finalCut: (text: string | null) => void (this.shown = text) },
      ...{ clock: this.clock, log: silentLogger() },
    } as unknown as FinalCutDeps;
    return FinalCut.open(deps, { note, runHook });
  }
}

/** Shut down, and the session lost while the last cut is made. */
async function lost(cut: FinalCut): Promise<void> {
  const session = new AbortController();
  const work = {
    whyNot: () => null,
    flush: () => Promise.resolve(),
    written: () => Promise.resolve(null),
    cycle: (): Promise<number> => {
      session.abort(LOST);
      return Promise.reject(LOST);
    },
  };
  const say = (): Promise<void> => (session.signal.aborted ? Promise.reject(LOST) : Promise.resolve());
  await expect(cut.run(ORDER, work, say, session.signal, new AbortController().signal)).rejects.toBe(LOST);
  cut.unanswered();
}

describe('a final cut whose session is lost', () => {
  it('lets the workload run when no receiver answers, not before it could have', async () => {
    const host = new Host();
    const cut = await host.open();
    await lost(cut);
    // Tries to connect fail meanwhile.
    for (let i = 0; i < 3; i++) {
      await host.clock.pass(RESUME_AFTER_MS / 4);
      cut.unanswered();
    }
    expect(host.ran).toEqual(['stop']);
    await host.clock.pass(RESUME_AFTER_MS / 4);
    expect(host.ran).toEqual(['stop', 'start']);
    expect(host.shown).toBeNull();
  });

  it('keeps it down when a receiver says that the machine runs elsewhere, until one lets it replicate', async () => {
    const host = new Host();
    const cut = await host.open();
    await lost(cut);
    await host.clock.pass(1_000);
    cut.answered(true);
    cut.unanswered();
    await host.clock.pass(100 * RESUME_AFTER_MS);
    expect(host.ran).toEqual(['stop']);
    expect(host.shown).toMatch(/resumed when the receiver lets this machine replicate/);
    cut.answered(false);
    await cut.resume('the receiver lets this machine replicate');
    expect(host.ran).toEqual(['stop', 'start']);
  });

  it('waits anew with each session that is lost', async () => {
    const host = new Host();
    const cut = await host.open();
    await lost(cut);
    await host.clock.pass(RESUME_AFTER_MS - 1);
    // Held for a failover that goes on; and lost again.
    cut.answered(false);
    await host.clock.pass(10 * RESUME_AFTER_MS);
    expect(host.ran).toEqual(['stop']);
    cut.unanswered();
    await host.clock.pass(RESUME_AFTER_MS - 1);
    expect(host.ran).toEqual(['stop']);
    await host.clock.pass(1);
    expect(host.ran).toEqual(['stop', 'start']);
  });

  it('the next process of an agent that died meanwhile does the same', async () => {
    const host = new Host();
    const dead = await host.open();
    await lost(dead);
    dead.close();
    await host.clock.pass(2 * RESUME_AFTER_MS);
    expect(host.ran).toEqual(['stop']);
    const cut = await host.open();
    cut.unanswered();
    await host.clock.pass(RESUME_AFTER_MS);
    expect(host.ran).toEqual(['stop', 'start']);
  });

  it('tries again where it could not be started, and not while the agent stops', async () => {
    const host = new Host();
    host.resumeFails = true;
    const cut = await host.open();
    await lost(cut);
    await host.clock.pass(RESUME_AFTER_MS);
    expect(host.shown).toMatch(/could not be resumed/);
    host.resumeFails = false;
    cut.unanswered();
    cut.close();
    await host.clock.pass(2 * RESUME_AFTER_MS);
    expect(host.ran).toEqual(['stop', 'start']);
  });

  it('the workload is let run at once when the session is there and the cut fails', async () => {
    const host = new Host();
    const cut = await host.open();
    const work = {
      whyNot: () => null,
      flush: () => Promise.resolve(),
      written: () => Promise.resolve('something'),
      cycle: () => Promise.reject(new Error('no point')),
    };
    const { signal } = new AbortController();
    expect(await cut.run(ORDER, work, () => Promise.resolve(), signal, signal)).toBe(false);
    expect(host.ran).toEqual(['stop', 'start']);
  });
});
