import { expect, test } from 'vitest';
import { ByteWindow } from '../../agent/session/window.js';
import { AfterimageError } from '../../shared/errors.js';

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('grants up to the limit, then in order as acknowledgements come', async () => {
  const window = new ByteWindow(100);
  const granted: string[] = [];
  const reserve = (name: string, bytes: number): void => void window.reserve(bytes).then(() => void granted.push(name));
  reserve('a', 60);
  reserve('b', 40);
  reserve('c', 60);
  // Would fit before c: order counts more, else a large message could wait for ever.
  reserve('d', 1);
  await settle();
  expect(granted).toEqual(['a', 'b']);
  expect(window.inFlightBytes).toBe(100);
  window.acknowledge(49);
  await settle();
  expect(granted).toEqual(['a', 'b']);
  window.acknowledge(60);
  await settle();
  expect(granted).toEqual(['a', 'b', 'c']);
  window.acknowledge(160);
  await settle();
  expect(granted).toEqual(['a', 'b', 'c', 'd']);
  expect(window.inFlightBytes).toBe(1);
});

test.each([
  ['backwards', 5],
  ['beyond what was sent', 21],
])('an acknowledgement that goes %s is a protocol error', async (_what, bytes) => {
  const window = new ByteWindow(100);
  await window.reserve(20);
  window.acknowledge(10);
  expect(() => window.acknowledge(bytes)).toThrow(/protocol error/);
  window.acknowledge(10);
  expect(window.inFlightBytes).toBe(10);
});

test('a message larger than the window is an error, not a deadlock', async () => {
  await expect(new ByteWindow(100).reserve(101)).rejects.toMatchObject({ code: 'protocol' });
});

test('a failure reaches who waits and who comes', async () => {
  const window = new ByteWindow(10);
  await window.reserve(10);
  const waiting = window.reserve(1);
  const first = new AfterimageError('gone', { code: 'disconnected', kind: 'disconnected' });
  window.fail(first);
  window.fail(new AfterimageError('later', { code: 'later', kind: 'internal' }));
  await expect(waiting).rejects.toBe(first);
  await expect(window.reserve(1)).rejects.toBe(first);
});
