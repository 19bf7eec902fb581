/**
 * The compute providers by name.
 */
import type { Clock } from '../../../shared/clock.js';
import { CommandProvider } from './command.js';
import { DisksOnly } from './none.js';
import type { ComputeProvider } from './provider.js';
import { QemuProvider } from './qemu.js';
import { supervisorProgram } from './supervisor.js';

export interface ComputeDeps {
  readonly clock: Clock;
  /** The receiver's environment: PATH, INVOCATION_ID, AFTERIMAGE_QEMU_ACCEL. */
  readonly env: Readonly<NodeJS.ProcessEnv>;
  /** Script of the guests' supervisor; default: the one beside this file. */
  readonly supervisorProgram?: string;
}

export function providerOf(kind: ComputeProvider['kind'], deps: ComputeDeps): ComputeProvider {
  switch (kind) {
    case 'qemu':
      return new QemuProvider({ ...deps, supervisorProgram: deps.supervisorProgram ?? supervisorProgram() });
    case 'command':
      return new CommandProvider(deps.clock);
    case 'none':
      return new DisksOnly(deps.clock);
  }
}
