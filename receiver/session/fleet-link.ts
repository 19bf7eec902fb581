/**
 * What a session has to do with the other receivers: tells its agent who they are, and sends it to another when the machine belongs there. Owns no
 * connection; when it may be sent is the session's to say.
 */
import type { ReceiverMessage, Verdict } from '../../shared/wire/messages.js';
import type { Fleet } from '../fleet/fleet.js';
import type { Direction, FleetMember } from '../fleet/placement.js';

export type SessionFleet = Pick<Fleet, 'id' | 'known' | 'owner' | 'direction' | 'onChange' | 'counters'>;

export class FleetLink {
  readonly #fleet: SessionFleet | undefined;
  readonly #send: (message: ReceiverMessage) => Promise<void>;
  #isWelcome = false;
  /** Sequence of the last message that is part of a point; null: a point has to come first. */
  #committed: number | null = null;
  #decide: (() => Promise<Direction>) | null = null;

  /** `fleet` undefined: this receiver is alone on its store. */
  constructor(fleet: SessionFleet | undefined, send: (message: ReceiverMessage) => Promise<void>) {
    this.#fleet = fleet;
    this.#send = send;
  }

  /** Tells the agent of each change from its welcome on, until the returned function is called. */
  follow(): () => void {
    return this.#fleet?.onChange(() => void this.#tell().catch(() => undefined)) ?? (() => undefined);
  }

  /** A first copy or a comparison comes to its point here. */
  async welcomed(verdicts: readonly Verdict[]): Promise<void> {
    this.#isWelcome = true;
    this.#committed = verdicts.every((verdict) => verdict === 'delta' || verdict === 'nothing') ? 0 : null;
    await this.#tell();
  }

  async #tell(): Promise<void> {
    if (this.#fleet === undefined || !this.#isWelcome) return;
    await this.#send({ type: 'fleet', self: this.#fleet.id, receivers: this.#fleet.known });
  }

  /** Asks for the handover of the machine. `decide` is asked once more when it can be, and may let it stay. */
  ask(decide: () => Promise<Direction>): void {
    this.#decide = decide;
  }

  committed(sequence: number): void {
    this.#committed = sequence;
  }

  /** Whether the agent is to go now. Not while what it has sent, up to a message of this sequence, is in no point yet: it would be sent again. */
  async due(sequence: number): Promise<Extract<Direction, { to: 'elsewhere' }> | null> {
    const decide = this.#decide;
    if (decide === null || sequence !== this.#committed) return null;
    this.#decide = null;
    const direction = await decide();
    return direction.to === 'elsewhere' ? direction : null;
  }

  /** `from`: the receiver that had the machine before; null: none. */
  tookOver(from: string | null): void {
    if (this.#fleet !== undefined && from !== null && from !== this.#fleet.id) this.#fleet.counters.takeovers++;
  }

  /** The connection is to be closed after it. An agent that is gone needs no redirect. */
  async redirect({ id, name, addresses }: FleetMember, reason: string): Promise<void> {
    if (this.#fleet !== undefined) this.#fleet.counters.redirects++;
    await this.#send({ type: 'redirect', to: { id, name, addresses: [...addresses] }, reason }).catch(() => undefined);
  }
}
