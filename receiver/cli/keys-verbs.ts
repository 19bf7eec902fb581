/**
 * The verbs about keys: `keys show`, `rotate`, `rewrap`, `export`, `check`; and the option that gives a recovery key file to verbs that read data.
 */
import type { Command } from 'commander';
import type { CliIo } from './io.js';
import type { KeysOptions } from './keys.js';
import { JSON_OPTION, MACHINE_HELP } from './verb-options.js';

export const KEY_OPTION = [
  '--key <file>',
  'key file of the machine, where it is encrypted (else AFTERIMAGE_KEY_FILE, else what the configuration says); may be given again',
] as const;

export const collectKeys = (value: string, before: readonly string[] | undefined): string[] => [
  ...(before ?? []),
  value,
];

const examples = `
Examples:
  afterimage keys show web1
  afterimage keys export web1 --out /media/usb/web1-keys.json
  afterimage keys check web1 --key /media/usb/web1-keys.json
  afterimage keys rotate web1
  afterimage keys rewrap web1

rotate, rewrap and export need the receiver's key provider (\`encryption:\` in its configuration). No verb shows a key.
`;

export function addKeysVerbs(program: Command, io: CliIo): void {
  const keys = program
    .command('keys')
    .description('keys of a machine that the receiver or its source encrypts')
    .addHelpText('after', examples);
  const verb = (name: string, description: string): Command =>
    keys
      .command(name)
      .description(description)
      .argument('<machine>', MACHINE_HELP)
      .option(...JSON_OPTION);

  verb('show', 'who encrypts a machine, with which keys').action(
    async (machine: string, _: unknown, command: Command) =>
      (await import('./keys.js')).showCommand(machine, command.optsWithGlobals<KeysOptions>(), io),
  );
  verb('rotate', 'add a data key for what is written from now on; data is not touched').action(
    async (machine: string, _: unknown, command: Command) =>
      (await import('./keys.js')).rotateCommand(machine, command.optsWithGlobals<KeysOptions>(), io),
  );
  verb('rewrap', 'wrap all keys under the newest key-encryption key; data is not touched').action(
    async (machine: string, _: unknown, command: Command) =>
      (await import('./keys.js')).rewrapCommand(machine, command.optsWithGlobals<KeysOptions>(), io),
  );
  verb('export', 'write the recovery key file: with it and the store alone everything can be restored')
    .requiredOption('--out <file>', 'where; an existing file is left alone')
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./keys.js')).exportCommand(machine, command.optsWithGlobals<KeysOptions & { out: string }>(), io),
    );
  verb('check', 'prove that a key file opens the newest recovery point; nothing else is used')
    .requiredOption('--key <file>', 'the key file')
    .option('--all', 'decrypt and prove all of the point, not a sample')
    .action(async (machine: string, _: unknown, command: Command) => {
      // One file here, a list elsewhere.
      const { key, ...options } = command.optsWithGlobals<Omit<KeysOptions, 'key'> & { key: string; all?: boolean }>();
      await (await import('./keys.js')).checkCommand(machine, { ...options, key: [key] }, io);
    });
}
