/**
 * Ceph's S3 gateway, with one owner of buckets and one account that has what a bucket's policy gives it.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CreateBucketCommand, PutBucketPolicyCommand, S3Client } from '@aws-sdk/client-s3';
import { CACHE, freePorts, missingServer, ServerProcess } from './server.js';

// As the adapter does it: the SDK tells which Node it will want.
process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] ??= 'true';

export const missingRgw = (): string | false => missingServer('ceph');

export const OWNER = { accessKeyId: 'OWNERKEY', secretAccessKey: 'owner-secret' };
export const WRITER = { accessKeyId: 'WRITERKEY', secretAccessKey: 'writer-secret' };

export class Rgw {
  readonly endpoint: string;
  readonly client: S3Client;
  readonly #process: ServerProcess;

  private constructor(process: ServerProcess, endpoint: string) {
    this.#process = process;
    this.endpoint = endpoint;
    this.client = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true, credentials: OWNER });
  }

  static async start(): Promise<Rgw> {
    const script = fileURLToPath(new URL('rgw.sh', import.meta.url));
    const port = await freePorts(3);
    const server = await ServerProcess.start(script, [join(CACHE, 'ceph'), String(port)], /^ready$/);
    return new Rgw(server, `http://127.0.0.1:${port}`);
  }

  async makeBucket(name: string, options: { readonly lock?: boolean } = {}): Promise<void> {
    await this.client.send(
      new CreateBucketCommand({ Bucket: name, ...(options.lock === true ? { ObjectLockEnabledForBucket: true } : {}) }),
    );
  }

  /** What the other account may do in a bucket. */
  async allow(bucket: string, actions: readonly string[]): Promise<void> {
    const Policy = JSON.stringify({
      Version: '2012-10-17',
      Statement: [
        {
          Effect: 'Allow',
          Principal: { AWS: ['arn:aws:iam:::user/writer'] },
          Action: actions,
          Resource: [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/*`],
        },
      ],
    });
    await this.client.send(new PutBucketPolicyCommand({ Bucket: bucket, Policy }));
  }

  /** Every request hangs until `resume`. */
  stall = (): Promise<void> => this.#process.tell('stall');
  resume = (): Promise<void> => this.#process.tell('resume');
  /** The gateway, in whatever it is doing. */
  kill = (): Promise<void> => this.#process.tell('kill');
  restart = (): Promise<void> => this.#process.tell('start');

  async stop(): Promise<void> {
    this.client.destroy();
    await this.#process.stop();
  }
}
