/**
 * The tracker of this machine, as configured. A file of its own: what runs at boot and shutdown needs it and little else.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import type { AgentConfig } from '../config.js';
import { EbpfTracker } from './ebpf/tracker.js';

/** Null where this kernel can't track, with the reason. */
export function openTracker(
  config: AgentConfig,
  clock: Clock,
): { readonly tracker: EbpfTracker | null; readonly reason: string } {
  if (config.tracker.prefer === 'scan') return { tracker: null, reason: 'the configuration prefers scan' };
  try {
    const mode = config.tracker.mode;
    const tracker = new EbpfTracker({
      pinDirectory: config.tracker.pinDir,
      clock,
      ...(mode === 'auto' ? {} : { mode }),
    });
    return { tracker, reason: '' };
  } catch (error) {
    if (config.tracker.prefer === 'ebpf' || !(error instanceof AfterimageError)) throw error;
    return { tracker: null, reason: error.message };
  }
}
