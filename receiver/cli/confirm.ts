/**
 * A question to the person at the terminal. Where there is none (a script, a pipe), nothing is asked.
 */
import { createInterface } from 'node:readline/promises';
import { AfterimageError } from '../../shared/errors.js';
import type { CliIo } from './io.js';

const declined = (): AfterimageError =>
  new AfterimageError('not confirmed: nothing was changed', {
    code: 'not-confirmed',
    kind: 'cancelled',
    hint: 'Answer "y", or give --yes.',
  });

/** Throws unless the answer is yes. */
export async function confirm(io: CliIo, question: string): Promise<void> {
  if (io.in?.isTTY !== true || io.err.isTTY !== true) return;
  // Not as a terminal of readline's own: Ctrl-C then comes as a signal, as everywhere else.
  const asking = createInterface({ input: io.in, output: io.err, terminal: false });
  try {
    const ended = new Promise<string>((resolve) => asking.once('close', () => resolve('')));
    const answer = await Promise.race([asking.question(`${question} [y/N] `, { signal: io.signal }), ended]).catch(
      (error: unknown) => {
        if (io.signal.aborted) return '';
        throw error;
      },
    );
    if (!/^y(es)?$/i.test(answer.trim())) throw declined();
  } finally {
    asking.close();
  }
}
