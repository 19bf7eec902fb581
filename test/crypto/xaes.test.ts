/**
 * XAES-256-GCM against the test vectors of its specification, and nonces that don't repeat.
 */
import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { NonceSource, XaesKey } from '../../shared/crypto/xaes.js';

const NONCE = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWX');
const PLAIN = Buffer.from('XAES-256-GCM');

describe('XAES-256-GCM', () => {
  it.each([
    [1, '', 'ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271'],
    [3, 'c2sp.org/XAES-256-GCM', '986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d'],
  ])('gives what its specification says for a key of %i', (byte, aad, expected) => {
    const key = new XaesKey(Buffer.alloc(32, byte));
    const { sealed, tag } = key.seal(NONCE, Buffer.from(aad), PLAIN);
    expect(Buffer.concat([sealed, tag]).toString('hex')).toBe(expected);
    expect(key.open(NONCE, Buffer.from(aad), sealed, tag)).toEqual(PLAIN);
  });

  it('opens nothing with another key, nonce, tag, data or context', () => {
    const key = new XaesKey(Buffer.alloc(32, 1));
    const aad = Buffer.from('where');
    const { sealed, tag } = key.seal(NONCE, aad, PLAIN);
    const flip = (b: Buffer, at: number): Buffer => {
      const copy = Buffer.from(b);
      copy[at] = (copy[at] ?? 0) ^ 1;
      return copy;
    };
    expect(key.open(NONCE, aad, sealed, tag)).toEqual(PLAIN);
    expect(new XaesKey(Buffer.alloc(32, 2)).open(NONCE, aad, sealed, tag)).toBeUndefined();
    for (let i = 0; i < 24; i++) expect(key.open(flip(NONCE, i), aad, sealed, tag)).toBeUndefined();
    for (let i = 0; i < 16; i++) expect(key.open(NONCE, aad, sealed, flip(tag, i))).toBeUndefined();
    for (let i = 0; i < sealed.length; i++) expect(key.open(NONCE, aad, flip(sealed, i), tag)).toBeUndefined();
    expect(key.open(NONCE, flip(aad, 0), sealed, tag)).toBeUndefined();
  });
});

describe('nonces', () => {
  it('differ within a writer and between writers', () => {
    const seen = new Set<string>();
    for (let writer = 0; writer < 10; writer++) {
      const nonces = new NonceSource(randomBytes);
      for (let i = 0; i < 1000; i++) seen.add(nonces.next().toString('hex'));
    }
    expect(seen.size).toBe(10_000);
  });
});
