/**
 * `afterimage store probe URL`: whether a place can be trusted with a store, before it is. One verdict per line; removes what it wrote.
 */
import { randomBytes } from 'node:crypto';
import { AfterimageError, usageError } from '../../shared/errors.js';
import { parseBytes } from '../../shared/config/parse-values.js';
import { formatBytes, MIB } from '../../shared/units.js';
import { probe, type Finding } from '../store/probe/probe.js';
import { openPlace } from '../store/open.js';
import type { CliIo, GlobalOptions } from './io.js';
import { printJson } from './output.js';

export interface StoreProbeOptions extends GlobalOptions {
  readonly size: string;
}

const SIZE_BYTES_MIN = 4 * MIB;
const WORDS: Readonly<Record<Finding['verdict'], string>> = { ok: 'ok  ', warn: 'note', fail: 'FAIL' };

export async function storeProbeCommand(url: string, options: StoreProbeOptions, io: CliIo): Promise<void> {
  const sizeBytes = parseBytes(options.size);
  if (sizeBytes === null || sizeBytes < SIZE_BYTES_MIN) {
    throw usageError(`${options.size} is not a size`, 'Give it as 64MiB; at least 4MiB.');
  }
  const json = options.json === true;
  const tty = io.err.isTTY === true && !json;
  const findings = await probe({
    open: () => openPlace(url, { clock: io.clock }),
    clock: io.clock,
    id: randomBytes(6).toString('hex'),
    sizeBytes,
    signal: io.signal,
    onProgress: (what, done, of) => {
      if (tty) io.err.write(`\r${what} ${formatBytes(done)} of ${formatBytes(of)} \u001b[K`);
    },
    onFinding: (finding) => {
      if (tty) io.err.write('\r\u001b[K');
      if (json) return;
      io.out.write(`${WORDS[finding.verdict]}  ${finding.check.padEnd(11)}  ${finding.text}\n`);
      if (finding.todo !== null) io.out.write(`${' '.repeat(19)}${finding.todo}\n`);
    },
  });
  const failed = findings.filter((finding) => finding.verdict === 'fail');
  if (json) printJson(io, { usable: failed.length === 0, findings });
  else if (failed.length === 0) io.out.write('This place can hold a store.\n');
  if (failed.length === 0) return;
  throw new AfterimageError(`${failed.length} of ${findings.length} checks failed`, {
    code: 'store-unfit',
    kind: 'unsupported',
    hint: 'Don’t use this place for a store before they pass.',
  });
}
