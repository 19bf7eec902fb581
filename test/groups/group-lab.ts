/**
 * Two machines of one receiver, each a real agent with a loop disk, in one group.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Attempt } from '../../receiver/catalog/group-attempts.js';
import type { GroupPoint, IncompletePoint, MemberPoint } from '../../receiver/catalog/group-points.js';
import { Lab } from '../e2e/lab.js';
import type { Env, Output } from '../e2e/program.js';

export const GROUP = 'shop';

type Named<T> = Omit<T, 'members'> & { readonly members: (MemberPoint & { readonly name: string })[] };

export interface Listed {
  readonly points: Named<GroupPoint>[];
  readonly incomplete: Named<IncompletePoint>[];
}

type AgentKeys = (folder: string) => Readonly<Record<string, unknown>>;

export class GroupLab {
  private constructor(
    /** The receiver is this one's. */
    readonly web: Lab,
    readonly db: Lab,
  ) {}

  static async open(diskBytes: number, keys: AgentKeys = () => ({})): Promise<GroupLab> {
    const agent = (folder: string): Readonly<Record<string, unknown>> => {
      mkdirSync(join(folder, 'hooks'), { recursive: true });
      // Under load a point that all have to wait for takes longer than the default allows.
      return { freeze: { deadline: '10s' }, hooks: { dir: join(folder, 'hooks') }, ...keys(folder) };
    };
    const options = { disks: [diskBytes], interval: '1h', agent };
    const web = await Lab.open(options);
    return new GroupLab(web, await Lab.open(options));
  }

  get machines(): readonly Lab[] {
    return [this.web, this.db];
  }

  get socket(): string {
    return join(this.web.folder, 'receiver.sock');
  }

  /** From nothing to two protected machines; `agentEnv` is of the second one. */
  async setUp(receiverEnv: Env = {}): Promise<void> {
    await this.web.startReceiver(receiverEnv);
    for (const [name, lab] of [
      ['web', this.web],
      ['db', this.db],
    ] as const) {
      await lab.enrol(name, this.web);
      await lab.protect();
      await lab.startAgent();
    }
    for (const lab of this.machines) await lab.untilProtected();
  }

  cli(...args: string[]): Promise<Output> {
    return this.web.run('cli', ...args);
  }

  define(...more: string[]): Promise<string> {
    return this.web.command('cli', 'group', 'set', GROUP, '--members', 'web,db', ...more);
  }

  askPoint(...more: string[]): Promise<Output> {
    return this.cli('group', 'point', GROUP, '--socket', this.socket, '--json', ...more);
  }

  /** Throws with what was said unless it was made. */
  async point(...more: string[]): Promise<Attempt> {
    const { code, stdout, stderr } = await this.askPoint(...more);
    if (code !== 0) throw new Error(`no point of the group: exit code ${code}\n${stderr}`);
    return JSON.parse(stdout) as Attempt;
  }

  async points(): Promise<Listed> {
    return JSON.parse(await this.web.command('cli', 'group', 'points', GROUP, '--incomplete', '--json')) as Listed;
  }

  async cleanUp(): Promise<void> {
    await this.db.cleanUp();
    await this.web.cleanUp();
  }
}
