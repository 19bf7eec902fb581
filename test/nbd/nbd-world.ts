/** A server with devices in memory, and clients that are not ours. */
import { execFile, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { nbdUri } from '../../receiver/volume/nbd/uri.js';
import {
  startNbdServer,
  type NbdExport,
  type NbdServer,
  type NbdServerOptions,
} from '../../receiver/volume/nbd/server.js';
import type { BlockDevice } from '../../receiver/volume/block-device.js';
import { tempFolder } from '../helpers/folders.js';

const started: NbdServer[] = [];

export interface World {
  readonly server: NbdServer;
  readonly socketPath: string;
  readonly exports: NbdExport[];
  uri(name: string): string;
}

export const exportOf = (name: string, device: BlockDevice): NbdExport => ({
  name,
  description: `about ${name}`,
  device,
});

export async function serve(
  devices: Readonly<Record<string, BlockDevice>>,
  more: Partial<NbdServerOptions> = {},
): Promise<World> {
  const socketPath = join(await tempFolder('nbd'), 'nbd.sock');
  const exports = Object.entries(devices).map(([name, device]) => exportOf(name, device));
  const server = await startNbdServer({
    listen: { socketPath },
    exports: () => exports,
    log: silentLogger(),
    clock: systemClock,
    ...more,
  });
  started.push(server);
  return { server, socketPath, exports, uri: (name) => nbdUri({ socketPath }, name) };
}

export async function stopServers(): Promise<void> {
  for (const server of started.splice(0)) await server.stop();
}

/** Debian's: its modules are not those of a Python that somebody installed beside it. */
export const PYTHON = '/usr/bin/python3';

export function missingTools(...tools: string[]): string[] {
  const missing = tools.filter((tool) => tool !== PYTHON && spawnSync('which', [tool]).status !== 0);
  if (tools.includes(PYTHON) && spawnSync(PYTHON, ['-c', 'import nbd']).status !== 0) missing.push('python3-libnbd');
  if (missing.length > 0) console.log(`skipped: ${missing.join(', ')} missing (see test/setup/packages.sh)`);
  return missing;
}

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly output: string;
}

export function run(program: string, args: readonly string[]): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(program, args, { timeout: 50_000, maxBuffer: 64 * 2 ** 20 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? 1), stdout, output: `${stdout}${stderr}` });
    });
  });
}

/** Throws what the program said when it failed. */
export async function must(program: string, args: readonly string[]): Promise<string> {
  const { code, stdout, output } = await run(program, args);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')}: exit code ${code}\n${output}`);
  return stdout;
}

/** A client of bytes: sends what it is told, collects what comes. */
export class RawClient {
  #chunks: Buffer[] = [];
  #bytes = 0;
  closed = false;
  readonly socket: Socket;
  #changed: () => void = () => undefined;

  constructor(socketPath: string) {
    this.socket = connect(socketPath);
    this.socket.on('data', (chunk) => {
      this.#chunks.push(chunk);
      this.#bytes += chunk.length;
      this.#changed();
    });
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => {
      this.closed = true;
      this.#changed();
    });
  }

  async until(condition: () => boolean, timeoutMs = 10_000): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!condition()) {
      if (performance.now() > deadline) throw new Error('waited in vain');
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 50);
        this.#changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** Exactly so many bytes. */
  async take(bytes: number): Promise<Buffer> {
    await this.until(() => this.#bytes >= bytes || this.closed);
    if (this.#bytes < bytes) throw new Error(`closed after ${this.#bytes} of ${bytes} bytes`);
    const all = Buffer.concat(this.#chunks);
    const taken = all.subarray(0, bytes);
    this.#chunks = [all.subarray(bytes)];
    this.#bytes -= bytes;
    return taken;
  }

  untilClosed(timeoutMs?: number): Promise<void> {
    return this.until(() => this.closed, timeoutMs);
  }

  /** Through the negotiation with EXPORT_NAME, simple replies. */
  async begin(name: string): Promise<void> {
    await this.take(18);
    this.socket.write(Buffer.from([0, 0, 0, 3]));
    this.socket.write(optionOf(1, Buffer.from(name)));
    await this.take(10);
  }
}

export function optionOf(option: number, data: Buffer): Buffer {
  const head = Buffer.alloc(16);
  head.write('IHAVEOPT', 'latin1');
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(data.length, 12);
  return Buffer.concat([head, data]);
}

export function requestOf(type: number, offset: number | bigint, length: number, cookie = 7, flags = 0): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(0x25609513, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

export const socketExists = (path: string): boolean => existsSync(path);
