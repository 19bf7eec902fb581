/** A store in memory that keeps every object for some time, whoever wants to delete it, as buckets with object lock do; and what it was asked to delete. */
import type { Clock } from '../../shared/clock.js';
import { DeleteError, type KeptObject } from '../../receiver/store/delete-error.js';
import type { CreateResult } from '../../receiver/store/store.js';
import { MemoryStore } from './memory-store.js';

export interface Asked {
  readonly name: string;
  readonly atMs: number;
  /** Of one that it keeps. */
  readonly lockedUntilMs: number | null;
}

export class LockingStore extends MemoryStore {
  readonly asked: Asked[] = [];
  readonly #until = new Map<string, number>();

  constructor(
    readonly clock: Clock,
    readonly lockMs: number,
    /** Whether it says how long it keeps what it keeps. */
    readonly tells = true,
  ) {
    super();
  }

  // Writers end in this, too.
  override async createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    const result = await super.createIfAbsent(name, bytes);
    if (result === 'created') this.#until.set(name, this.clock.nowMs() + this.lockMs);
    return result;
  }

  override async deleteMany(names: readonly string[]): Promise<void> {
    const atMs = this.clock.nowMs();
    const kept: KeptObject[] = [];
    const free: string[] = [];
    for (const name of names) {
      const until = this.#until.get(name) ?? 0;
      const isLocked = this.objects.has(name) && until > atMs;
      this.asked.push({ name, atMs, lockedUntilMs: isLocked ? until : null });
      if (isLocked)
        kept.push({ name, reason: 'locked', lockedUntilMs: this.tells ? until : null, message: 'it is locked' });
      else free.push(name);
    }
    await super.deleteMany(free);
    if (kept.length > 0) throw new DeleteError(kept);
  }
}
