/** `afterimage store probe`, as a program that reads its JSON. */
import { PassThrough } from 'node:stream';
import { runCli } from '../../receiver/cli/program.js';
import type { Finding } from '../../receiver/store/probe/probe.js';
import { systemClock } from '../../shared/clock.js';

export async function probeByCommand(url: string): Promise<{ readonly findings: Finding[]; readonly code: number }> {
  const out = new PassThrough();
  const err = new PassThrough();
  const io = { out, err, env: {}, clock: systemClock, signal: new AbortController().signal };
  const code = await runCli(['store', 'probe', url, '--size', '4MiB', '--json'], io);
  const text = String(out.read() ?? '');
  return { findings: text === '' ? [] : (JSON.parse(text) as { findings: Finding[] }).findings, code };
}
