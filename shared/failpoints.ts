/**
 * Named places where a test kills the process (SIGKILL to itself), to prove what survives there.
 * `AFTERIMAGE_FAILPOINT=name[:n]` arms one: the n-th pass through it (default 1) is the last.
 * Costs one comparison of an undefined value when not armed.
 */
const armed = process.env['AFTERIMAGE_FAILPOINT'];
const [armedName, armedCount = '1'] = armed === undefined ? [] : armed.split(':');
let remaining = Number(armedCount);

export type FailpointName =
  | 'agent.sweep.segment-read'
  | 'agent.sweep.segment-sent'
  | 'agent.sweep.segment-staged'
  | 'agent.cycle.taken'
  | 'agent.cycle.streamed'
  | 'agent.cycle.cut'
  | 'agent.cycle.journaled'
  | 'agent.cycle.commit-sent'
  | 'agent.cycle.committed'
  | 'agent.cycle.applied'
  | 'receiver.ingest.chunk'
  | 'receiver.ingest.layer-open'
  | 'receiver.ingest.layer-finished'
  | 'receiver.ingest.segment-staged'
  | 'receiver.commit.layers-durable'
  | 'receiver.commit.manifest-written'
  | 'receiver.commit.before-ack'
  | 'receiver.catalog.takeover'
  | 'restore.unit-written'
  | 'restore.unit-recorded';

export function failpoint(name: FailpointName): void {
  if (armedName !== name) return;
  remaining--;
  if (remaining > 0) return;
  process.kill(process.pid, 'SIGKILL');
  // The signal is delivered before the next system call returns to user mode; wait here so that nothing else runs.
  for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
}
