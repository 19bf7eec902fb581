/** What is wrong with a layer, said so that a person knows where and what next. */
import { AfterimageError, corrupt } from '../../shared/errors.js';

export const LAYER_HINT =
  'Points that need it can not be restored: see `afterimage verify`, pick another point, ask for a resynchronisation.';

/** Adds to an error of the chunk format where it was met. */
export function inLayer(name: string, where: string, error: unknown): unknown {
  if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') return error;
  return new AfterimageError(`layer ${name}, ${where}: ${error.message}`, {
    code: error.code,
    kind: 'corrupt',
    hint: LAYER_HINT,
    cause: error,
  });
}

/** A block whose plain bytes are not what the index says. */
export const blockMismatch = (name: string, block: number): AfterimageError =>
  corrupt('block-hash', `layer ${name}, block ${block}: its bytes do not match its hash`, LAYER_HINT);
