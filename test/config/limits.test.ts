/**
 * Relations between limits: a limit that was changed alone must not break what another relies on.
 */
import { expect, test } from 'vitest';
import { chunkBytesMax } from '../../shared/layer/chunk.js';
import * as limits from '../../shared/limits.js';

test('a full chunk fits its frame, and a frame fits its window and queue', () => {
  const blocks = limits.CHUNK_PLAIN_BYTES_MAX / limits.BLOCK_BYTES_MIN;
  // 128 extents is what the agent's sender allows.
  expect(chunkBytesMax(128, blocks, limits.CHUNK_PLAIN_BYTES_MAX)).toBeLessThanOrEqual(limits.CHUNK_FRAME_BYTES_MAX);
  expect(limits.CHUNK_FRAME_BYTES_MAX).toBeLessThan(limits.SOCKET_BUFFERED_BYTES_MAX);
  expect(limits.SOCKET_BUFFERED_BYTES_MAX).toBeLessThanOrEqual(limits.WINDOW_BYTES);
  expect(limits.WINDOW_BYTES).toBeLessThanOrEqual(limits.INGEST_QUEUE_BYTES_MAX);
  expect(limits.ACK_BYTES).toBeLessThan(limits.WINDOW_BYTES);
});

test('hashes of a segment fit a control message, segments hold whole chunks and blocks', () => {
  expect((limits.SEGMENT_BYTES / limits.BLOCK_BYTES_MIN) * 8).toBeLessThan(limits.CONTROL_BYTES_MAX);
  expect(limits.SEGMENT_BYTES % limits.CHUNK_PLAIN_BYTES_MAX).toBe(0);
  expect(limits.CHUNK_PLAIN_BYTES_MAX % limits.BLOCK_BYTES_MAX).toBe(0);
  expect(limits.SEGMENT_BYTES).toBeLessThanOrEqual(limits.LAYER_STORED_BYTES_MAX);
  expect(limits.BLOCKS_PER_DISK_MAX).toBeLessThan(2 ** 31);
});

test('times follow each other: heartbeats, deadlines, intervals', () => {
  expect(limits.HEARTBEAT_TIMEOUT_MS).toBeGreaterThanOrEqual(3 * limits.HEARTBEAT_INTERVAL_MS);
  expect(limits.TAKEOVER_PROBE_MS).toBeLessThan(limits.HEARTBEAT_TIMEOUT_MS);
  expect(limits.CUT_DEADLINE_MS).toBeLessThan(limits.POINT_INTERVAL_MS);
  expect(limits.FROZEN_TRIES_MS).toBeLessThan(limits.FREEZE_DEADLINE_MS);
  expect(limits.RECONNECT_BACKOFF_MIN_MS).toBeLessThan(limits.RECONNECT_BACKOFF_MAX_MS);
  expect(limits.CUT_WINDOW_BYTES_MAX).toBeGreaterThanOrEqual(limits.READ_BYTES_MAX);
});
