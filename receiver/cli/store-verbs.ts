/**
 * The verbs about a place for a store, as opposed to what is in it: `afterimage store …`.
 */
import type { Command } from 'commander';
import type { CliIo } from './io.js';
import type { StoreProbeOptions } from './store-probe.js';

const probeExamples = `
Examples:
  afterimage store probe file:/srv/afterimage
  afterimage store probe 's3://dr-points/site1?endpoint=https://s3.example.com&ca=/etc/afterimage/ca.pem'
  afterimage store probe 'azblob://dr-points?account=acmedr' --size 256MiB --json

It writes under probe/ in that place and removes what it wrote. Credentials: a file that the URL names (credentials=/path), the
environment (AWS_…, AZURE_STORAGE_…), or the platform's own.
Exit codes: 0 fit for a store, 1 not fit, 2 bad input.
`;

export function addStoreVerbs(program: Command, io: CliIo): void {
  program
    .command('store')
    .description('look at a place for recovery points before it is trusted')
    .command('probe')
    .description('try out what a store must be able to do, and how fast it is')
    .argument('<url>', 'file:/path, s3://BUCKET/PREFIX?… or azblob://CONTAINER/PREFIX?…')
    .option('--size <bytes>', 'how much is moved to measure the speed', '64MiB')
    .option('--json', 'print JSON')
    .addHelpText('after', probeExamples)
    .action(async (url: string, _: unknown, command: Command) =>
      (await import('./store-probe.js')).storeProbeCommand(url, command.optsWithGlobals<StoreProbeOptions>(), io),
    );
}
