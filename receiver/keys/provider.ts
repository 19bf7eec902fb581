/**
 * Where the receiver's key-encryption keys are: a provider wraps and unwraps the keys of machines and never gives its own out.
 * `context` says what a wrapped key is for (machine and use); a key that was wrapped for one thing can't be unwrapped as another.
 */
import type { RandomBytes } from '../../shared/crypto/keys.js';
import { CommandProvider } from './command-provider.js';
import { FileProvider } from './file-provider.js';

export interface Wrapped {
  /** Names the key-encryption key. */
  readonly kek: string;
  /** Base64. */
  readonly wrapped: string;
}

export interface KeyProvider {
  /** For people: `file:/etc/…`. No secret. */
  readonly name: string;
  /** What wrap() uses now; null when the provider doesn't say. */
  currentKek(): Promise<string | null>;
  wrap(key: Buffer, context: string): Promise<Wrapped>;
  unwrap(wrapped: Wrapped, context: string): Promise<Buffer>;
}

export type ProviderConfig = { readonly file: string } | { readonly command: readonly string[] };

export const openProvider = (config: ProviderConfig, randomBytes: RandomBytes): KeyProvider =>
  'file' in config ? new FileProvider(config.file, randomBytes) : new CommandProvider(config.command, process.env);
