/**
 * Keys are wrapped by a program of the operator, for a key management service or a hardware module. It gets one line of JSON on standard input and answers
 * with one on standard output, and exits with 0:
 *   {"operation":"wrap","context":"…","key":"<base64>"}                 → {"kek":"<name of what wrapped it>","wrapped":"<base64>"}
 *   {"operation":"unwrap","context":"…","kek":"…","wrapped":"<base64>"}  → {"key":"<base64>"}
 *   {"operation":"current"}                                              → {"kek":"…"}, or {} when that isn't known
 * It must refuse to unwrap under another context than the one it wrapped for. No key is on a command line or in the environment; what the program
 * says on standard error goes into our error, its standard output never does.
 */
import { spawn } from 'node:child_process';
import { z } from 'zod';
import { KEY_BYTES } from '../../shared/crypto/xaes.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { COMMAND_ANSWER_BYTES_MAX, COMMAND_LINE_CHARS_MAX } from '../../shared/limits.js';
import { KEY_COMMAND_TIMEOUT_MS } from '../../shared/limits-keys.js';
import type { KeyProvider, Wrapped } from './provider.js';

const wrappedSchema = z.object({ kek: z.string().min(1).max(500), wrapped: z.base64().min(1) });
const keySchema = z.object({ key: z.base64().transform((text) => Buffer.from(text, 'base64')) });
const currentSchema = z.object({ kek: z.string().max(500).optional() });

export class CommandProvider implements KeyProvider {
  readonly name: string;
  readonly #command: readonly string[];
  readonly #env: NodeJS.ProcessEnv;
  readonly #timeoutMs: number;

  constructor(command: readonly string[], env: NodeJS.ProcessEnv, timeoutMs = KEY_COMMAND_TIMEOUT_MS) {
    this.#command = command;
    this.#env = env;
    this.#timeoutMs = timeoutMs;
    this.name = `command:${command[0] ?? ''}`;
  }

  async currentKek(): Promise<string | null> {
    return (await this.#ask({ operation: 'current' }, currentSchema)).kek ?? null;
  }

  async wrap(key: Buffer, context: string): Promise<Wrapped> {
    return this.#ask({ operation: 'wrap', context, key: key.toString('base64') }, wrappedSchema);
  }

  async unwrap({ kek, wrapped }: Wrapped, context: string): Promise<Buffer> {
    const { key } = await this.#ask({ operation: 'unwrap', context, kek, wrapped }, keySchema);
    if (key.length !== KEY_BYTES) throw this.#failed('it answered with a key of another length');
    return key;
  }

  async #ask<T>(question: object, schema: z.ZodType<T>): Promise<T> {
    const answer = await this.#run(`${JSON.stringify(question)}\n`);
    let json: unknown;
    try {
      json = JSON.parse(answer);
    } catch {
      throw this.#failed('its answer is not JSON');
    }
    const parsed = schema.safeParse(json);
    if (!parsed.success) throw this.#failed('its answer lacks what was asked for');
    return parsed.data;
  }

  #run(input: string): Promise<string> {
    const [program = '', ...args] = this.#command;
    return new Promise((resolve, reject) => {
      const child = spawn(program, args, {
        env: this.#env,
        stdio: ['pipe', 'pipe', 'pipe'],
        timeout: this.#timeoutMs,
        killSignal: 'SIGKILL',
      });
      const out: Buffer[] = [];
      let outBytes = 0;
      let said = '';
      child.on('error', (error) => reject(this.#failed(messageOf(error))));
      child.stdout.on('data', (bytes: Buffer) => {
        outBytes += bytes.length;
        if (outBytes <= COMMAND_ANSWER_BYTES_MAX) out.push(bytes);
      });
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        said = (said + text).slice(0, COMMAND_LINE_CHARS_MAX);
      });
      // A program that doesn't read its input may end before it has all of it: its exit code counts.
      child.stdin.on('error', () => undefined);
      child.on('close', (code, signal) => {
        if (signal !== null) reject(this.#failed(`it was ended by ${signal} (limit: ${this.#timeoutMs / 1000} s)`));
        else if (code !== 0) reject(this.#failed(`exit code ${code ?? '?'}${said === '' ? '' : `: ${said.trim()}`}`));
        else if (outBytes > COMMAND_ANSWER_BYTES_MAX) reject(this.#failed('its answer is too long'));
        else resolve(Buffer.concat(out).toString('utf8'));
      });
      child.stdin.end(input);
    });
  }

  #failed(what: string): AfterimageError {
    return new AfterimageError(`key provider ${this.name} failed: ${what}`, {
      code: 'key-provider',
      kind: 'io',
      hint: 'See `encryption:` in the receiver’s configuration. A recovery key file (--key FILE) needs no provider.',
    });
  }
}
