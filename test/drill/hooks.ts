/**
 * The agent's hooks of a drill: scripts that ask the test's process, which plays the hypervisor at home, and wait for its answer. They talk by files.
 */
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const POLL_MS = 20;

export class HomeHooks {
  readonly #folder: string;
  readonly #timer: NodeJS.Timeout;
  /** What was asked for, in order. */
  readonly calls: string[] = [];

  /** `handlers`: what to do for each hook; rejecting makes the hook fail. */
  constructor(folder: string, handlers: Readonly<Record<string, () => Promise<void>>>) {
    this.#folder = folder;
    mkdirSync(folder, { recursive: true });
    for (const name of Object.keys(handlers)) {
      const script = `#!/bin/sh
cd '${folder}' && rm -f ${name}.done ${name}.failed && touch ${name}.wanted
until [ -e ${name}.done ]; do [ -e ${name}.failed ] && exit 1; sleep 0.02; done
echo '${name}: done'
`;
      writeFileSync(this.path(name), script, { mode: 0o755 });
    }
    this.#timer = setInterval(() => {
      for (const [name, handler] of Object.entries(handlers)) void this.#serve(name, handler);
    }, POLL_MS);
  }

  path(name: string): string {
    return join(this.#folder, `${name}.sh`);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #serve(name: string, handler: () => Promise<void>): Promise<void> {
    const at = (what: string): string => join(this.#folder, `${name}.${what}`);
    if (!existsSync(at('wanted'))) return;
    renameSync(at('wanted'), at('taken'));
    this.calls.push(name);
    try {
      await handler();
      writeFileSync(at('done'), '');
    } catch (error) {
      console.warn(`hook ${name}: ${String(error)}`);
      writeFileSync(at('failed'), '');
    } finally {
      rmSync(at('taken'), { force: true });
    }
  }
}
