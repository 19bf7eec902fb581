/**
 * Requests to the object store in Prometheus' form: how many of each kind, how they ended, how long they took, what they moved.
 */
import { Counter, Histogram, type Registry } from 'prom-client';
import type { RequestRecord, RequestWatch } from './store/watch.js';

/** From a folder on a fast disk to a bucket that throttles. */
const LATENCY_SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30];

export class StoreMetrics implements RequestWatch {
  readonly #requests = new Counter({
    name: 'afterimage_receiver_store_requests_total',
    help: 'Requests to the object store, each try one; outcome busy: the store asked for fewer',
    labelNames: ['kind', 'outcome'],
    registers: [],
  });
  readonly #latency = new Histogram({
    name: 'afterimage_receiver_store_request_seconds',
    help: 'Time until a request to the object store was answered or given up',
    labelNames: ['kind'],
    buckets: LATENCY_SECONDS,
    registers: [],
  });
  readonly #bytes = new Counter({
    name: 'afterimage_receiver_store_bytes_total',
    help: 'Content of objects written to and read from the object store',
    labelNames: ['direction'],
    registers: [],
  });

  request({ kind, outcome, ms }: RequestRecord): void {
    this.#requests.inc({ kind, outcome });
    this.#latency.observe({ kind }, ms / 1000);
  }

  moved(direction: 'written' | 'read', bytes: number): void {
    this.#bytes.inc({ direction }, bytes);
  }

  register(registry: Registry): void {
    registry.registerMetric(this.#requests);
    registry.registerMetric(this.#latency);
    registry.registerMetric(this.#bytes);
  }
}
