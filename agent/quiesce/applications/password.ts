/**
 * Passwords of databases, read from files when they are needed and kept nowhere. A file that others may read is refused: a password in it is none.
 */
import { readFileSync, statSync } from 'node:fs';
import { messageOf } from '../../../shared/errors.js';
import type { PasswordSource } from '../config.js';
import { applicationError } from './application.js';

export function readPassword(name: string, source: PasswordSource): string {
  const path = 'file' in source ? source.file : source.envFile;
  let text: string;
  try {
    const { mode } = statSync(path);
    if ((mode & 0o077) !== 0)
      throw applicationError(name, `${path} holds a password and can be read by others`, `chmod 600 ${path}`);
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'hint' in error) throw error;
    throw applicationError(
      name,
      `the password can't be read: ${messageOf(error)}`,
      `See \`applications\` in agent.yaml.`,
    );
  }
  const password = 'file' in source ? text.replace(/\r?\n$/, '') : valueOf(text, source.variable);
  if (password === null || password === '') {
    const what = 'file' in source ? `${path} is empty` : `${path} does not set ${source.variable}`;
    throw applicationError(name, what, 'Write the password there.');
  }
  return password;
}

/** As systemd's EnvironmentFile: the last assignment counts; quotes around the whole value are taken off. */
export function valueOf(text: string, variable: string): string | null {
  let value: string | null = null;
  for (const line of text.split('\n')) {
    const match = /^\s*(?:export\s+)?(\w+)=(.*?)\s*$/.exec(line);
    if (match?.[1] !== variable) continue;
    const raw = match[2] ?? '';
    value = /^(["']).*\1$/.test(raw) ? raw.slice(1, -1) : raw;
  }
  return value;
}
