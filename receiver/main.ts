#!/usr/bin/env node
/**
 * `afterimage-receiver`: the daemon, enrolment tokens, revocation. Each verb loads what it needs when it is asked for.
 */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { setFlagsFromString } from 'node:v8';
import { Command } from 'commander';
import { runCommandLine, signalOfProcess } from '../shared/cli.js';
import { systemClock } from '../shared/clock.js';
import { parseDuration } from '../shared/config/parse-values.js';
import { usageError } from '../shared/errors.js';
import { formatHostPort, parseHostPort } from '../shared/wire/host-port.js';
import { VERSION } from '../shared/version.js';
import { loadReceiverConfig } from './config.js';
import { addKek, initKekFile } from './keys/file-provider.js';

const program = new Command('afterimage-receiver')
  .description('Receives the changes of protected machines and commits them to object storage as recovery points.')
  .version(VERSION)
  .option('--config <file>', 'configuration (default: /etc/afterimage/receiver.yaml, all keys optional)');

const configPath = (): string | undefined => program.opts<{ config?: string }>().config;

program
  .command('run')
  .description('run the receiver in the foreground (systemd starts it so)')
  .action(async () => {
    // Each message is memory outside of V8's heap, which counts against the heap's limit: while data streams in, the whole of a small heap
    // would be marked every 20 MiB, for half of the receiver's CPU (measured). So the heap may grow to four times what lives in it.
    setFlagsFromString('--heap-growing-percent=300');
    const { runReceiver } = await import('./daemon.js');
    await runReceiver(await loadReceiverConfig(configPath()), signalOfProcess());
  });

program
  .command('token')
  .description('make a one-time token that enrols a machine')
  .option('--machine <name>', 'enrol this known machine again (new hardware, lost keys); its old certificate ends')
  .option(
    '--address <host:port>',
    'where agents reach this receiver (default: this host’s name and the configured port)',
  )
  .option('--ttl <duration>', 'how long the token is good', '1h')
  .option('--json', 'print JSON')
  .addHelpText('after', '\nExample:\n  afterimage-receiver token --address dr.example.com:7443\n')
  .action(async (options: { machine?: string; address?: string; ttl: string; json?: boolean }) => {
    const [{ resolveMachine }, { openAuthority }, { TokenStore }, { openStore }] = await Promise.all([
      import('./catalog/machines.js'),
      import('./session/ca.js'),
      import('./session/tokens.js'),
      import('./store/open.js'),
    ]);
    const config = await loadReceiverConfig(configPath());
    const address = options.address ?? formatHostPort({ host: hostname(), port: config.listen.port });
    if (parseHostPort(address) === null) throw usageError(`${address} is not an address`, 'Give it as host:port.');
    const ttlMs = parseDuration(options.ttl);
    if (ttlMs === null || ttlMs < 1000)
      throw usageError(`${options.ttl} is not a duration`, 'Give it as 30min, 1h or 1d.');
    const store = await openStore(config.store, { clock: systemClock, create: true });
    const machine = options.machine === undefined ? undefined : await resolveMachine(store, options.machine);
    await store.close();
    const ca = await openAuthority(config.stateDir, systemClock);
    const token = await new TokenStore(config.stateDir, systemClock).issue({
      address,
      caFingerprint: ca.fingerprint,
      ttlMs,
      ...(machine === undefined ? {} : { machine }),
    });
    const expiresAt = new Date(token.expiresAtMs).toISOString();
    if (options.json === true) process.stdout.write(`${JSON.stringify({ token: token.text, expiresAt, address })}\n`);
    else {
      process.stdout.write(`${token.text}\n`);
      process.stderr.write(`Good once, until ${expiresAt}. On the machine to protect: afterimage-agent enroll TOKEN\n`);
    }
  });

program
  .command('revoke')
  .description('refuse a machine from now on; its recovery points stay')
  .argument('<machine>', 'its name, its id, or a beginning of its id')
  .action(async (word: string) => {
    const [{ resolveMachine }, { loadIdentity, revokeIdentity }, { openStore }] = await Promise.all([
      import('./catalog/machines.js'),
      import('./session/identity.js'),
      import('./store/open.js'),
    ]);
    const config = await loadReceiverConfig(configPath());
    const store = await openStore(config.store, { clock: systemClock });
    const identity = await loadIdentity(store, await resolveMachine(store, word));
    if (identity === null) throw usageError(`machine ${word} was never enrolled here`, 'See `afterimage machines`.');
    const isNew = await revokeIdentity(store, identity, systemClock.nowMs());
    await store.close();
    process.stdout.write(
      isNew
        ? `${identity.name} is revoked: its agent is refused, and a connection that stands ends within half a minute.\n`
        : `${identity.name} was revoked already.\n`,
    );
  });

const keys = program.command('keys').description('key-encryption keys of this receiver, where they are in a file');

/** The file of the configuration, unless another is named. */
async function kekPath(given: string | undefined): Promise<string> {
  const { provider } = (await loadReceiverConfig(configPath())).encryption;
  const path = given ?? (provider !== undefined && 'file' in provider ? provider.file : undefined);
  if (path !== undefined) return path;
  throw usageError(
    'no key file is named',
    'Give --file, or set `encryption: { provider: { file: … } }` in receiver.yaml.',
  );
}

const KEEP_A_COPY =
  'Keep a copy where neither this host nor the store is, or export a recovery key file of each machine (`afterimage keys export`): without one of them nothing that is encrypted can be restored, by anybody.';

keys
  .command('init')
  .description('make the file with a first key; an existing file is left alone')
  .option('--file <path>', 'where (default: that of the configuration)')
  .action(async (options: { file?: string }) => {
    const path = await kekPath(options.file);
    const id = await initKekFile(path, randomBytes, systemClock.nowMs());
    process.stdout.write(`${path}: key-encryption key ${id}\n`);
    process.stderr.write(`${KEEP_A_COPY}\n`);
  });

keys
  .command('add')
  .description(
    'add a key, which wraps from now on; then `afterimage keys rewrap` each machine. Old keys stay in the file',
  )
  .option('--file <path>', 'which (default: that of the configuration)')
  .action(async (options: { file?: string }) => {
    const path = await kekPath(options.file);
    const id = await addKek(path, randomBytes, systemClock.nowMs());
    process.stdout.write(`${path}: key-encryption key ${id} is added\n`);
    process.stderr.write(`${KEEP_A_COPY}\n`);
  });

program
  .command('volume-certificate')
  .description(
    'make a certificate for a program that opens volumes over the network (`afterimage serve --listen tcp:…`)',
  )
  .argument('<name>', 'who it is for; letters, digits, ".", "_", "-"')
  .requiredOption('--out <folder>', 'where ca-cert.pem, client-cert.pem and client-key.pem are put; made if missing')
  .option('--ttl <duration>', 'how long it is good; it can not be called back before', '30d')
  .addHelpText(
    'after',
    "\nExample:\n  afterimage-receiver volume-certificate backup1 --out ./backup1\n  nbdinfo 'nbds://dr.example.com:10809/?tls-certificates=./backup1'\n",
  )
  .action(async (name: string, options: { out: string; ttl: string }) => {
    const lifetimeMs = parseDuration(options.ttl);
    if (lifetimeMs === null) throw usageError(`${options.ttl} is not a duration`, 'Give it as 12h, 30d or 365d.');
    const [{ openAuthority }, { writeVolumeCertificate }] = await Promise.all([
      import('./session/ca.js'),
      import('./session/volume-certificate.js'),
    ]);
    const config = await loadReceiverConfig(configPath());
    const ca = await openAuthority(config.stateDir, systemClock);
    await writeVolumeCertificate(ca, name, lifetimeMs, options.out);
    process.stderr.write(
      `Certificate of ${name} is in ${options.out}; whoever has it can open what is served over TLS.\n`,
    );
  });

await runCommandLine(program, process.argv.slice(2));
