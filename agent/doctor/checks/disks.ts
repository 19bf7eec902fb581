/**
 * Are the protected disks there, known for sure and trackable, and is there room for what is kept of them? Pure.
 */
import { STATE_SPACE_MARGIN_BYTES } from '../../../shared/limits-service.js';
import { formatBytes } from '../../../shared/units.js';
import { fail, ok, warn, type Check } from '../check.js';
import { isProblem, type DiskFacts, type Facts } from '../facts.js';

export function diskChecks(disks: Facts['disks'], prefer: 'auto' | 'ebpf' | 'scan'): Check[] {
  if (isProblem(disks)) return [fail('disks', disks.message, disks.hint ?? 'Run as root.')];
  if (disks.length === 0) {
    return [
      fail('disks', 'no disk is protected', '`lsblk` shows what there is; then `afterimage-agent protect DEVICE`.'),
    ];
  }
  return disks.map((disk) => diskCheck(disk, prefer));
}

function diskCheck(disk: DiskFacts, prefer: 'auto' | 'ebpf' | 'scan'): Check {
  const name = `disk ${disk.path}`;
  if (disk.problem !== null) {
    const todo = disk.problem.hint ?? 'Connect it, or `afterimage-agent unprotect` it.';
    return fail(name, disk.problem.message, todo);
  }
  const paths = disk.paths.length === 0 ? '' : `, paths ${disk.paths.join(', ')}`;
  const what = `${disk.id}, ${formatBytes(disk.sizeBytes ?? 0)}${paths}`;
  if (disk.untrackedReason !== null && prefer !== 'scan') {
    const todo =
      'A point of it is made only when nothing wrote while it was read: protect the device below it, if there is one.';
    return warn(name, `${what}: no change tracking: ${disk.untrackedReason}`, todo);
  }
  if (disk.isKnownBySlot) {
    return warn(
      name,
      `${what}: it has no number of its own and is known by the slot it is in`,
      'Give the (virtual) disk a serial number, and protect it again; else don’t move it to another slot.',
    );
  }
  const [first] = disk.warnings;
  if (first !== undefined) return warn(name, `${what}: ${disk.warnings.join('; ')}`, 'See that this is as meant.');
  return ok(name, what);
}

export function spaceCheck(space: Facts['space']): Check {
  const name = 'space';
  if (isProblem(space)) return fail(name, space.message, space.hint ?? 'Check the state directory.');
  const { path, freeBytes, neededBytes } = space;
  const message = `${formatBytes(freeBytes)} free in ${path}, block hashes may still take ${formatBytes(neededBytes)}`;
  const todo = `Make room, or move the state (\`stateDir\` in agent.yaml) to a filesystem with ${formatBytes(neededBytes + STATE_SPACE_MARGIN_BYTES)} free.`;
  if (freeBytes < neededBytes) return fail(name, message, todo);
  if (freeBytes < neededBytes + STATE_SPACE_MARGIN_BYTES) return warn(name, message, todo);
  return ok(name, message);
}
