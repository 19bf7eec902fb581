/**
 * What an `s3:` URL says: where the bucket is, how it is asked, with which credentials. Reads the files that it names; asks no server.
 */
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import { z } from 'zod';
import { usageError } from '../../../shared/errors.js';
import { CONNECT_TIMEOUT_MS } from '../../../shared/limits.js';
import { STORE_CONNECTIONS_MAX } from '../../../shared/limits-store.js';
import { readCredentials } from '../credentials.js';
import {
  endpointOption,
  flagOption,
  lockOption,
  parseBucketUrl,
  pathOption,
  type BucketUrl,
  type LockRule,
} from '../store-url.js';
import { trusted } from '../trusted.js';

export const S3_URL_HINT =
  'Give it as s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION&ca=/ca.pem&credentials=/file&lock=compliance:30d; all options are optional.';

const OPTIONS = ['endpoint', 'region', 'pathStyle', 'ca', 'credentials', 'lock'];

const credentialsSchema = z.strictObject({
  accessKeyId: z.string().min(1),
  secretAccessKey: z.string().min(1),
  sessionToken: z.string().min(1).optional(),
});

export interface S3Location {
  readonly url: string;
  readonly bucket: string;
  readonly prefix: string;
  readonly endpoint: string | undefined;
  readonly region: string | undefined;
  readonly pathStyle: boolean;
  readonly ca: string | undefined;
  readonly credentials: string | undefined;
  readonly lock: LockRule | undefined;
}

export function parseS3Url(url: string): S3Location {
  const parsed: BucketUrl = parseBucketUrl(url, OPTIONS, S3_URL_HINT);
  const endpoint = endpointOption(parsed);
  const region = parsed.options.get('region');
  if (region !== undefined && !/^[a-z0-9-]{1,40}$/i.test(region)) {
    throw usageError('the region in the store URL is not the name of one', S3_URL_HINT);
  }
  const ca = pathOption(parsed, 'ca');
  if (ca !== undefined && endpoint?.startsWith('https:') !== true) {
    throw usageError('the option ca of the store URL needs an endpoint by https', S3_URL_HINT);
  }
  return {
    url: parsed.text,
    bucket: parsed.bucket,
    prefix: parsed.prefix,
    endpoint,
    // Servers of one's own have no regions, but a signature needs the name of one.
    region: region ?? (endpoint === undefined ? undefined : 'us-east-1'),
    // Names of buckets are seldom in the DNS of a server of one's own.
    pathStyle: flagOption(parsed, 'pathStyle') ?? endpoint !== undefined,
    ca,
    credentials: pathOption(parsed, 'credentials'),
    lock: lockOption(parsed),
  };
}

/** A client that tries each request once (trying again is ours, see requests.ts). Credentials: the file that the URL names, else the SDK's chain. */
export async function s3Client(location: S3Location): Promise<S3Client> {
  // The SDK would tell every user of a command which Node it will want next year.
  process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] ??= 'true';
  const agent = { keepAlive: true, maxSockets: STORE_CONNECTIONS_MAX };
  const config: S3ClientConfig = {
    forcePathStyle: location.pathStyle,
    maxAttempts: 1,
    // Layers carry checksums of their own, which every reader checks.
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: {
      connectionTimeout: CONNECT_TIMEOUT_MS,
      httpAgent: new HttpAgent(agent),
      httpsAgent: new HttpsAgent({ ...agent, ...(await trusted(location.ca)) }),
    },
    ...(location.endpoint === undefined ? {} : { endpoint: location.endpoint }),
    ...(location.region === undefined ? {} : { region: location.region }),
  };
  if (location.credentials !== undefined) {
    const { sessionToken, ...keys } = await readCredentials(
      location.credentials,
      credentialsSchema,
      'accessKeyId, secretAccessKey and, where there is one, sessionToken',
    );
    config.credentials = sessionToken === undefined ? keys : { ...keys, sessionToken };
  }
  return new S3Client(config);
}
