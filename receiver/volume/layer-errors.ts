/** What is wrong with a layer, said so that a person knows where and what next. */
import { AfterimageError, corrupt, DAMAGE_HINT } from '../../shared/errors.js';

/** Adds to an error of the chunk format where it was met. */
export function inLayer(name: string, where: string, error: unknown): unknown {
  if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') return error;
  return new AfterimageError(`layer ${name}, ${where}: ${error.message}`, {
    code: error.code,
    kind: 'corrupt',
    hint: DAMAGE_HINT,
    cause: error,
  });
}

/** A block whose plain bytes are not what the index says. */
export const blockMismatch = (name: string, block: number): AfterimageError =>
  corrupt('block-hash', `layer ${name}, block ${block}: its bytes do not match its hash`, DAMAGE_HINT);
