/**
 * `afterimage policy MACHINE [--set FILE]`: how often points of a machine are made and how long they are kept. It lies in the store: no receiver has
 * to run.
 */
import { stringify } from 'yaml';
import { resolveMachine } from '../catalog/machines.js';
import { policySchema } from '../catalog/policy.js';
import { loadPolicy, policyText, savePolicy } from '../catalog/policy-io.js';
import { configuredPolicy, openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { printJson } from './output.js';
import { readYaml } from './read-yaml.js';

export interface PolicyOptions extends GlobalOptions {
  /** A file, or `-` for standard input. */
  readonly set?: string;
}

export async function policyCommand(word: string, options: PolicyOptions, io: CliIo): Promise<void> {
  // What is wrong with a file is said before anything is looked up.
  const wish = options.set === undefined ? null : await readYaml(options.set, policySchema, io);
  const store = await openConfiguredStore(options, io);
  try {
    const machine = await resolveMachine(store, word);
    if (wish !== null) {
      const number = await savePolicy({ store, clock: io.clock }, machine, wish);
      if (options.json === true) printJson(io, { number, policy: policyText(wish) });
      else
        io.err.write(
          `Policy ${number} of ${word} counts from now on; its receiver takes it up within a minute.\n` +
            `What it keeps: \`afterimage retention preview ${word}\`.\n`,
        );
      return;
    }
    const own = await loadPolicy(store, machine);
    const policy = policyText(own?.policy ?? (await configuredPolicy(options)));
    if (options.json === true) {
      printJson(io, { number: own?.number ?? null, policy });
      return;
    }
    if (own === null) io.err.write(`${word} has no policy of its own; this is the receiver's default:\n`);
    io.out.write(stringify(policy));
  } finally {
    await store.close();
  }
}
