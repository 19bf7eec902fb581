/**
 * The verbs about how long points are kept: `policy`, `retention preview`, `hold`, `release`.
 */
import type { Command } from 'commander';
import type { CliIo, GlobalOptions } from './io.js';
import type { HoldOptions } from './hold.js';
import type { PolicyOptions } from './policy.js';
import type { PreviewOptions } from './retention-preview.js';
import { JSON_OPTION, MACHINE_HELP, POINT_HELP } from './verb-options.js';

const policyExamples = `
Examples:
  afterimage policy web1 > web1.yaml
  afterimage policy web1 --set web1.yaml

A file with all keys in use (each may be left out):
  interval: 30s                # distance of points; else what the agent's configuration says
  applicationInterval: 1h      # distance of application-consistent points; likewise
  retention:                   # one point per "every", up to this age; each "every" a multiple of the one before
    - { every: all, upTo: 2h }
    - { every: 1h, upTo: 1d }
    - { every: 2h, upTo: 7d }
    - { every: 4h, upTo: 15d }
    - { every: 28d, upTo: 3640d }
  applicationRetention:        # application-consistent points stay while either grid keeps them
    - { every: 1d, upTo: 364d }

The newest point is never dropped, nor is one that is held (\`afterimage hold\`) or in use.
`;

const holdExamples = `
Examples:
  afterimage hold web1 812 --name LEGAL-17 --note 'case 2026/17, ask Ms Weber'
  afterimage points web1
  afterimage release web1 LEGAL-17
`;

export function addRetentionVerbs(program: Command, io: CliIo): void {
  program
    .command('policy')
    .description('show or replace how often points are made and how long they are kept; kept in the store')
    .argument('<machine>', MACHINE_HELP)
    .option('--set <file>', 'replace it by this YAML file, or by standard input with -')
    .option(...JSON_OPTION)
    .addHelpText('after', policyExamples)
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./policy.js')).policyCommand(machine, command.optsWithGlobals<PolicyOptions>(), io),
    );

  program
    .command('retention')
    .description('what a policy keeps')
    .command('preview')
    .description(
      'what a policy keeps of the points that are there and in the long run, and what that costs; changes nothing',
    )
    .argument('<machine>', MACHINE_HELP)
    .option('--policy <file>', 'this YAML file instead of the policy of the machine, or standard input with -')
    .option(...JSON_OPTION)
    .addHelpText(
      'after',
      '\nExamples:\n  afterimage retention preview web1\n  afterimage retention preview web1 --policy web1.yaml --json\n',
    )
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./retention-preview.js')).previewCommand(machine, command.optsWithGlobals<PreviewOptions>(), io),
    );

  program
    .command('hold')
    .description('keep a recovery point, whatever the policy says, until it is released ("legal hold")')
    .argument('<machine>', MACHINE_HELP)
    .argument('<point>', POINT_HELP)
    .requiredOption('--name <name>', 'by which it is released')
    .option('--note <text>', 'why, for people')
    .option(...JSON_OPTION)
    .addHelpText('after', holdExamples)
    .action(async (machine: string, point: string, _: unknown, command: Command) =>
      (await import('./hold.js')).holdCommand(machine, point, command.optsWithGlobals<HoldOptions>(), io),
    );

  program
    .command('release')
    .description('end a hold: the point is kept as long as the policy says')
    .argument('<machine>', MACHINE_HELP)
    .argument('<name>', 'of the hold')
    .option(...JSON_OPTION)
    .action(async (machine: string, name: string, _: unknown, command: Command) =>
      (await import('./hold.js')).releaseCommand(machine, name, command.optsWithGlobals<GlobalOptions>(), io),
    );
}
