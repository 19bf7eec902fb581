/**
 * Named places where a test kills the process (SIGKILL to itself), to prove what survives there.
 * `AFTERIMAGE_FAILPOINT=name[:n]` arms one: the n-th pass through it (default 1) is the last. With `name:n:stop` it is suspended there instead
 * (SIGSTOP), and goes on when somebody lets it; with `name:n:eat` it takes memory until the kernel kills it for that.
 * Costs one comparison of an undefined value when not armed.
 */
const armed = process.env['AFTERIMAGE_FAILPOINT'];
const [armedName, armedCount = '1', armedHow = 'kill'] = armed === undefined ? [] : armed.split(':');
let remaining = Number(armedCount);

export type FailpointName =
  | 'agent.sweep.segment-read'
  | 'agent.sweep.segment-sent'
  | 'agent.sweep.segment-staged'
  | 'agent.cycle.taken'
  | 'agent.cycle.streamed'
  /** Filesystems are frozen. */
  | 'agent.cycle.frozen'
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
  | 'receiver.upkeep.pages-written'
  | 'receiver.upkeep.committed'
  | 'receiver.upkeep.batch-deleted'
  | 'receiver.group.frozen'
  | 'receiver.group.cut'
  | 'receiver.group.thawed'
  | 'receiver.replicate.cut'
  | 'receiver.replicate.batch'
  | 'receiver.replicate.layers-durable'
  | 'receiver.replicate.committed'
  | 'agent.group.frozen'
  | 'agent.group.cut'
  | 'agent.group.thawed'
  | 'agent.final-cut.noted'
  | 'agent.final-cut.stopped'
  | 'agent.final-cut.proven'
  | 'agent.final-cut.handed-over'
  | 'agent.restore.begun'
  | 'agent.restore.reread'
  | 'agent.restore.segment-learned'
  | 'agent.restore.chunk-written'
  | 'agent.restore.segment-durable'
  | 'agent.restore.segment-done'
  | 'agent.restore.checked'
  | 'agent.restore.series-restarted'
  | 'agent.restore.committed'
  | 'agent.restore.reported'
  | 'agent.generation.kept'
  | 'restore.unit-written'
  | 'restore.unit-recorded'
  | 'volume.write.data-written'
  | 'volume.flush.image-synced'
  | 'volume.evict.map-cleared'
  | 'restore.finished'
  /** `failover.OPERATION.TASK.begin` and `.end`: the task was recorded as started; its effect is there and not yet recorded. */
  | `failover.${string}`;

export function failpoint(name: FailpointName): void {
  if (armedName !== name) return;
  remaining--;
  if (remaining > 0) return;
  if (armedHow === 'stop') {
    if (remaining < 0) return;
    process.kill(process.pid, 'SIGSTOP');
    // Another thread may have to take the signal: nothing more is done here before all of them have stopped.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    return;
  }
  if (armedHow === 'eat') eat();
  process.kill(process.pid, 'SIGKILL');
  // The signal is delivered before the next system call returns to user mode; wait here so that nothing else runs.
  for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
}

/** Up to a size that no limit of a test reaches: an unlimited process must not take the machine's memory. */
function eat(): void {
  const eaten: Buffer[] = [];
  while (eaten.length < 2048) eaten.push(Buffer.alloc(1024 * 1024, eaten.length));
}
