/**
 * The emulator of Azure Blob, kept outside of the repository (install.sh).
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ContainerClient } from '@azure/storage-blob';
import { CACHE, freePorts, missingServer, ServerProcess } from './server.js';

export const missingAzurite = (): string | false => missingServer('azurite');

/** The public account of the emulator. */
export const ACCOUNT = 'devstoreaccount1';
export const ACCOUNT_KEY = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==';

export class Azurite {
  readonly #port: number;
  readonly #folder: string;
  #process: ServerProcess;

  private constructor(port: number, folder: string, process: ServerProcess) {
    this.#port = port;
    this.#folder = folder;
    this.#process = process;
  }

  static async start(): Promise<Azurite> {
    const port = await freePorts(1);
    const folder = await mkdtemp(join(tmpdir(), 'afterimage-azurite-'));
    return new Azurite(port, folder, await launch(port, folder));
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#port}/${ACCOUNT}`;
  }

  get connectionString(): string {
    return `DefaultEndpointsProtocol=http;AccountName=${ACCOUNT};AccountKey=${ACCOUNT_KEY};BlobEndpoint=${this.endpoint};`;
  }

  async makeContainer(name: string): Promise<void> {
    await new ContainerClient(this.connectionString, name).create();
  }

  /** Ends it in whatever it is doing. */
  kill(): Promise<void> {
    return this.#process.stop();
  }

  async restart(): Promise<void> {
    this.#process = await launch(this.#port, this.#folder);
  }

  async stop(): Promise<void> {
    await this.#process.stop();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

const launch = (port: number, folder: string): Promise<ServerProcess> =>
  ServerProcess.start(
    process.execPath,
    [
      join(CACHE, 'azurite/node_modules/azurite/dist/src/blob/main.js'),
      '--blobHost',
      '127.0.0.1',
      '--blobPort',
      String(port),
      '--location',
      folder,
      // Current SDKs speak a newer version of the protocol than it lists.
      '--skipApiVersionCheck',
      '--disableTelemetry',
    ],
    /successfully listens/,
  );
