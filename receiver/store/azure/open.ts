/**
 * Opens a container: the first request tells a wrong address or wrong credentials.
 */
import { randomUUID } from 'node:crypto';
import { STORE_OPEN_RETRY_MS, STORE_PAGE_NAMES } from '../../../shared/limits-store.js';
import type { RemoteOptions } from '../remote-options.js';
import { Requests } from '../requests.js';
import { ServerClock } from '../server-clock.js';
import { AzureStore } from './azure-store.js';
import { classifyAzure } from './errors.js';
import { azureClient, parseAzureUrl } from './location.js';

export async function openAzure(url: string, options: RemoteOptions): Promise<AzureStore> {
  const location = parseAzureUrl(url);
  const { clock, random, watch, timing } = options;
  const server = new ServerClock(clock);
  const { client, close } = await azureClient(location, process.env, server);
  const requests = new Requests({
    clock,
    random,
    watch,
    classify: classifyAzure,
    ...(timing === undefined ? {} : { timing }),
  });
  const request = { kind: 'other', what: `opening ${location.url}`, retryMs: STORE_OPEN_RETRY_MS } as const;
  try {
    // What every credential of ours may do, unlike a question about the container itself.
    await requests.run(request, async (abortSignal) => {
      await client
        .listBlobsFlat({ abortSignal, prefix: `${location.prefix}format` })
        .byPage({ maxPageSize: 1 })
        .next();
    });
  } catch (error) {
    close();
    throw error;
  }
  return new AzureStore({
    location,
    client,
    closeConnections: close,
    requests,
    clock,
    server,
    newId: options.newId ?? randomUUID,
    watch,
    pageNames: options.pageNames ?? STORE_PAGE_NAMES,
  });
}
