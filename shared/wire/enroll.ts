/**
 * Enrolment as both sides see it: the one-time token, the request, the answer.
 *
 * Token: `ai1.` and base64url of JSON {a: receiver's address host:port, f: SHA-256 of the receiver's CA certificate, s: secret}.
 * It carries the pin, so that the first contact is authenticated in both directions: the agent sends the secret only to that CA.
 */
import { z } from 'zod';
import { usageError } from '../errors.js';
import { isUuid, type MachineId } from '../units.js';
import { parseHostPort } from './host-port.js';

export const ENROLL_PATH = '/v1/enroll';
export const SESSION_PATH = '/v1/session';
/** The name that a receiver's certificate holds, whatever address it is reached by. */
export const RECEIVER_TLS_NAME = 'afterimage-receiver';
/** TLS 1.3 only; AES-128 first, as decryption is the receiver's largest cost. */
export const TLS_CIPHERS = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';

const TOKEN_PREFIX = 'ai1.';
const sha256Hex = z.string().regex(/^[0-9a-f]{64}$/);
const secretText = z.string().regex(/^[A-Za-z0-9_-]{43}$/);

const tokenSchema = z.strictObject({
  a: z.string().refine((text) => parseHostPort(text) !== null),
  f: sha256Hex,
  s: secretText,
});

export interface EnrollmentToken {
  /** host:port of the receiver. */
  readonly address: string;
  /** SHA-256 of the receiver's CA certificate in DER, hex. */
  readonly caFingerprint: string;
  readonly secret: string;
}

export function formatToken(token: EnrollmentToken): string {
  const json = JSON.stringify({ a: token.address, f: token.caFingerprint, s: token.secret });
  return TOKEN_PREFIX + Buffer.from(json, 'utf8').toString('base64url');
}

export function parseToken(text: string): EnrollmentToken {
  const trimmed = text.trim();
  const invalid = usageError(
    'this is not an enrolment token',
    'Copy the whole line, from "ai1." to its end, that `afterimage-receiver token` printed.',
  );
  if (!trimmed.startsWith(TOKEN_PREFIX)) throw invalid;
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(trimmed.slice(TOKEN_PREFIX.length), 'base64url').toString('utf8'));
  } catch {
    throw invalid;
  }
  const parsed = tokenSchema.safeParse(value);
  if (!parsed.success) throw invalid;
  return { address: parsed.data.a, caFingerprint: parsed.data.f, secret: parsed.data.s };
}

/** Names of machines: what a hostname may hold, and never a UUID, since an operator may give either. */
export const machineNameSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/,
    'a name is 1 to 63 letters, digits, ".", "_" and "-", a letter or digit first',
  )
  .refine((name) => !isUuid(name.toLowerCase()), 'a name must not look like an id');

export const enrollRequestSchema = z.strictObject({
  secret: secretText,
  /** PKCS#10 request, PEM. */
  csr: z.string().max(8192),
  name: machineNameSchema,
  hardwareId: z.string().min(1).max(200),
});
export type EnrollRequest = z.infer<typeof enrollRequestSchema>;

const pem = z.string().max(8192);
export const enrollResponseSchema = z.strictObject({
  machine: z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id'),
  generation: z.number().int().min(1),
  name: z.string(),
  /** PEM. */
  certificate: pem,
  ca: pem,
});
export type EnrollResponse = z.infer<typeof enrollResponseSchema>;

/** What a refused enrolment is answered with. */
export const enrollErrorSchema = z.strictObject({
  code: z.string().max(100),
  message: z.string().max(2000),
  hint: z.string().max(2000).nullable(),
});
export type EnrollErrorBody = z.infer<typeof enrollErrorSchema>;
