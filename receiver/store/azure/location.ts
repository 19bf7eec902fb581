/**
 * What an `azblob:` URL says: where the container is and with which credentials it is asked. Reads the files that it names; asks no server.
 */
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import {
  AnonymousCredential,
  ContainerClient,
  newPipeline,
  StorageSharedKeyCredential,
  type RequestPolicyFactory,
  type StoragePipelineOptions,
} from '@azure/storage-blob';
import { z } from 'zod';
import { usageError } from '../../../shared/errors.js';
import { STORE_CONNECTIONS_MAX } from '../../../shared/limits-store.js';
import { readCredentials } from '../credentials.js';
import type { ServerClock } from '../server-clock.js';
import { endpointOption, lockOption, parseBucketUrl, pathOption, type LockRule } from '../store-url.js';
import { trusted } from '../trusted.js';

export const AZURE_URL_HINT =
  'Give it as azblob://CONTAINER/PREFIX?account=NAME&endpoint=https://HOST&ca=/ca.pem&credentials=/file&lock=compliance:30d; the account or an endpoint is needed.';

const OPTIONS = ['account', 'endpoint', 'ca', 'credentials', 'lock'];

const credentialsSchema = z.union([
  z.strictObject({ accountKey: z.string().min(1) }),
  z.strictObject({ sasToken: z.string().min(1) }),
  z.strictObject({ connectionString: z.string().min(1) }),
]);
type Credentials = { accountKey?: string; sasToken?: string; connectionString?: string };

export interface AzureLocation {
  readonly url: string;
  readonly container: string;
  readonly prefix: string;
  readonly account: string | undefined;
  readonly endpoint: string | undefined;
  readonly ca: string | undefined;
  readonly credentials: string | undefined;
  readonly lock: LockRule | undefined;
}

export function parseAzureUrl(url: string): AzureLocation {
  const parsed = parseBucketUrl(url, OPTIONS, AZURE_URL_HINT);
  const account = parsed.options.get('account');
  if (account !== undefined && !/^[a-z0-9]{3,24}$/.test(account)) {
    throw usageError('the account in the store URL is not the name of one', AZURE_URL_HINT);
  }
  const endpoint = endpointOption(parsed);
  const ca = pathOption(parsed, 'ca');
  if (ca !== undefined && endpoint?.startsWith('https:') !== true) {
    throw usageError('the option ca of the store URL needs an endpoint by https', AZURE_URL_HINT);
  }
  return {
    url: parsed.text,
    container: parsed.bucket,
    prefix: parsed.prefix,
    account,
    endpoint,
    ca,
    credentials: pathOption(parsed, 'credentials'),
    lock: lockOption(parsed),
  };
}

/** The file that the URL names, else the environment; nothing: the platform's chain. */
async function credentialsOf(location: AzureLocation, env: NodeJS.ProcessEnv): Promise<Credentials> {
  if (location.credentials !== undefined) {
    return readCredentials(location.credentials, credentialsSchema, 'one of accountKey, sasToken, connectionString');
  }
  const { AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN } = env;
  if (AZURE_STORAGE_CONNECTION_STRING) return { connectionString: AZURE_STORAGE_CONNECTION_STRING };
  if (AZURE_STORAGE_KEY) return { accountKey: AZURE_STORAGE_KEY };
  return AZURE_STORAGE_SAS_TOKEN ? { sasToken: AZURE_STORAGE_SAS_TOKEN } : {};
}

/** A client that tries each request once (trying again is ours, see requests.ts), and what its connections are closed by. */
export async function azureClient(
  location: AzureLocation,
  env: NodeJS.ProcessEnv,
  server: ServerClock,
): Promise<{ readonly client: ContainerClient; readonly close: () => void }> {
  const { connectionString, accountKey, sasToken } = await credentialsOf(location, env);
  const agentOptions = { keepAlive: true, maxSockets: STORE_CONNECTIONS_MAX };
  const http = new HttpAgent(agentOptions);
  const https = new HttpsAgent({ ...agentOptions, ...(await trusted(location.ca)) });
  const close = (): void => {
    http.destroy();
    https.destroy();
  };
  // Our connections, with our authorities: the SDK has no option for either.
  const connections: RequestPolicyFactory = {
    create: (next) => ({
      sendRequest: async (request) => {
        request.agent = request.url.startsWith('https:') ? https : http;
        const answer = await next.sendRequest(request);
        server.saw(answer.headers.get('date'));
        return answer;
      },
    }),
  };
  const options: StoragePipelineOptions = { retryOptions: { maxTries: 1 } };
  const { container } = location;
  if (connectionString !== undefined) {
    const made = new ContainerClient(connectionString, container);
    const pipeline = newPipeline(made.credential, options);
    pipeline.factories.unshift(connections);
    return { client: new ContainerClient(made.url, pipeline), close };
  }
  const account = location.account ?? env['AZURE_STORAGE_ACCOUNT'];
  if (location.endpoint === undefined && account === undefined) {
    throw usageError('the store URL names neither an account nor an endpoint', AZURE_URL_HINT);
  }
  if (accountKey !== undefined && account === undefined) {
    throw usageError('a key needs the name of its account', AZURE_URL_HINT);
  }
  const endpoint = location.endpoint ?? `https://${account ?? ''}.blob.core.windows.net`;
  const credential =
    accountKey !== undefined && account !== undefined
      ? new StorageSharedKeyCredential(account, accountKey)
      : sasToken !== undefined
        ? new AnonymousCredential()
        : new (await import('@azure/identity')).DefaultAzureCredential();
  const pipeline = newPipeline(credential, options);
  pipeline.factories.unshift(connections);
  const query = sasToken === undefined ? '' : `?${sasToken.replace(/^\?/, '')}`;
  return { client: new ContainerClient(`${endpoint}/${container}${query}`, pipeline), close };
}
