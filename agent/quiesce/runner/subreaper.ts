/**
 * Orphans of this process' children become its own children, whatever they did to detach themselves: none of a hook's processes gets out of sight.
 */
import koffi from 'koffi';

const PR_SET_CHILD_SUBREAPER = 36;
const prctl = koffi
  .load(null)
  .func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)') as unknown as (
  option: number,
  ...rest: readonly number[]
) => number;

export const becomeSubreaper = (): void => void prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
