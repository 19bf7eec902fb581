/**
 * Enrolment, the receiver's half: a token becomes a machine and a certificate.
 *
 * The token is taken first, so that it counts once; it is given back when the enrolment was refused before anything was made.
 * A crash, or an answer that gets lost, after that: the machine exists, its agent doesn't know; the operator enrols it
 * again with a token for that machine. Enrolments run one after the other: names stay unique.
 */
import { randomUUID } from 'node:crypto';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import type { Logger } from '../../shared/log.js';
import { asMachineId, type MachineId } from '../../shared/units.js';
import type { EnrollRequest, EnrollResponse } from '../../shared/wire/enroll.js';
import { InTurn } from '../../shared/in-turn.js';
import { fingerprintOf } from '../../shared/fingerprint.js';
import { MANIFEST_VERSION, type MachineIdentity } from '../catalog/manifest.js';
import type { ObjectStore } from '../store/store.js';
import type { CertificateAuthority } from './ca.js';
import { createIdentity, findMachineByName, loadIdentity } from './identity.js';
import type { TakenToken, TokenStore } from './tokens.js';

export interface EnrollmentDeps {
  readonly store: ObjectStore;
  readonly tokens: TokenStore;
  readonly ca: CertificateAuthority;
  readonly clock: Clock;
  readonly log: Logger;
  /** Generation that the machine's manifest holds (0 without one): a failover raises it there, and the next enrolment must be above. */
  readonly manifestGeneration: (machine: MachineId) => Promise<number>;
  readonly newMachineId?: () => MachineId;
}

/** Who the machine will be, before its certificate exists. */
type Draft = Omit<MachineIdentity, 'certificate'>;

export class Enrollment {
  readonly #deps: EnrollmentDeps;
  readonly #turns = new InTurn();

  constructor(deps: EnrollmentDeps) {
    this.#deps = deps;
  }

  enroll(request: EnrollRequest): Promise<EnrollResponse> {
    return this.#turns.run(() => this.#enroll(request));
  }

  async #enroll(request: EnrollRequest): Promise<EnrollResponse> {
    const { store, tokens, ca, log } = this.#deps;
    const token = await tokens.take(request.secret);
    const { draft, certificate } = await this.#prepare(request, token).catch(async (error: unknown) => {
      await tokens.giveBack(request.secret, token);
      throw error;
    });
    await createIdentity(store, { ...draft, certificate: fingerprintOf(certificate) });
    const { machine, generation, name, number } = draft;
    log.info({ machine, name, generation, identity: number, tokenId: token.id }, 'machine enrolled');
    return { machine, generation, name, certificate, ca: ca.certificatePem };
  }

  async #prepare(request: EnrollRequest, token: TakenToken): Promise<{ draft: Draft; certificate: string }> {
    const draft = token.machine === null ? await this.#newMachine(request) : await this.#again(request, token.machine);
    return { draft, certificate: await this.#deps.ca.issueAgent(draft.machine, request.csr) };
  }

  async #newMachine(request: EnrollRequest): Promise<Draft> {
    await this.#requireFreeName(request.name, null);
    const machine = (this.#deps.newMachineId ?? (() => asMachineId(randomUUID())))();
    return this.#draft(request, machine, 1, 1);
  }

  async #again(request: EnrollRequest, machine: MachineId): Promise<Draft> {
    const current = await loadIdentity(this.#deps.store, machine);
    await this.#requireFreeName(request.name, machine);
    // A machine whose identity is lost but whose manifest isn't starts its numbers again, its generation not.
    const generation = Math.max(current?.generation ?? 0, await this.#deps.manifestGeneration(machine)) + 1;
    return this.#draft(request, machine, (current?.number ?? 0) + 1, generation);
  }

  #draft({ name, hardwareId }: EnrollRequest, machine: MachineId, number: number, generation: number): Draft {
    const enrolledAtMs = this.#deps.clock.nowMs();
    return { version: MANIFEST_VERSION, number, machine, name, hardwareId, generation, enrolledAtMs };
  }

  async #requireFreeName(name: string, machine: MachineId | null): Promise<void> {
    const holder = await findMachineByName(this.#deps.store, name);
    if (holder === null || holder.machine === machine) return;
    throw new AfterimageError(`there is a machine named ${name} already (${holder.machine})`, {
      code: 'name-taken',
      kind: 'refused',
      hint: `To enrol that machine again: \`afterimage-receiver token --machine ${name}\`. For another machine: enrol it with --name.`,
    });
  }
}
