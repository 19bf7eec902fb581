/**
 * The state of one machine for people. Pure.
 */
import { formatBytes, formatDuration } from '../../shared/units.js';
import type { Instance, Job, Operation } from '../catalog/recovery.js';
import type { InstanceView, RecoveryView } from '../failover/operations.js';
import { oneLine, taskLines, tookText } from './job-view.js';
import { table } from './output.js';

type Row = readonly [title: string, value: string];

export function riskText(risk: InstanceView['dataAtRisk']): string | null {
  return risk === null ? null : `${formatDuration(risk.seconds * 1000)}, ${formatBytes(risk.bytes)}`;
}

/** The command that asks for an operation. */
export function commandOf(operation: Operation, name: string): string {
  if (operation === 'planned-failover') return `afterimage failover ${name} --planned`;
  return `afterimage ${operation} ${name}${operation === 'change-point' ? ' --point P' : ''}`;
}

const rowsText = (rows: readonly Row[], indent: string): string =>
  rows.map(([title, value]) => `${indent}${`${title}:`.padEnd(16)}${value}\n`).join('');

const withReason = (text: string, reason: string): string => (reason === '' ? text : `${text} (${oneLine(reason)})`);

export function statusText(view: RecoveryView, all: boolean, nowMs: number): string {
  const { machine, recovery } = view;
  const rows: Row[] = [
    ['State', withReason(recovery?.state ?? 'Protected', recovery?.stateReason ?? '')],
    ['Active', recovery?.activeLocation ?? 'Primary'],
    ['Newest point', `${view.lastPoint === 0 ? 'none yet' : view.lastPoint}, generation ${view.generation}`],
    ['Agent at home', homeText(view)],
    ['Test failover', recovery?.testFailover.state ?? 'None'],
  ];
  const parts = [`${machine.name}  ${machine.id}\n`, rowsText(rows, '  ')];
  const job = recovery?.job ?? null;
  if (job !== null) parts.push(jobText(job, nowMs));
  for (const copy of copiesOf(view)) parts.push(copyText(copy.instance, copy.view));
  parts.push(operationsText(view, all));
  return parts.join('');
}

function homeText({ homeAgent, homeAt, recovery }: RecoveryView): string {
  const home = recovery?.home;
  const elsewhere = homeAt === null ? 'not connected' : `not here; last at receiver ${homeAt.name} (${homeAt.address})`;
  const session = homeAgent ?? elsewhere;
  return home === undefined || home.mode === 'replicate'
    ? session
    : withReason(`${session}, ${home.mode}`, home.reason);
}

function jobText(job: Job, nowMs: number): string {
  const lines = taskLines(job, nowMs).map((line) => `${line}\n`);
  return `\n${job.operation}, job ${job.id}: ${job.state}, ${tookText(job, nowMs)}\n${lines.join('')}`;
}

interface Copy {
  /** As recorded in the store; null for one that only its host knows of. */
  readonly instance: Instance | null;
  /** As it runs on this receiver's host; null when it runs elsewhere. */
  readonly view: InstanceView | null;
}

/** What is recorded and what runs, brought together by id. */
function copiesOf({ recovery, instances }: RecoveryView): Copy[] {
  const recorded = [recovery?.failover ?? null, recovery?.testFailover.instance ?? null].filter((i) => i !== null);
  const known = new Set(recorded.map((i) => i.id));
  return [
    ...recorded.map((instance) => ({ instance, view: instances.find((v) => v.id === instance.id) ?? null })),
    ...instances.filter((v) => !known.has(v.id)).map((view) => ({ instance: null, view })),
  ];
}

function copyText(instance: Instance | null, view: InstanceView | null): string {
  const title = instance === null ? 'copy' : `${instance.kind} from point ${instance.point}, by ${instance.provider}`;
  const rows: Row[] = [
    ['Guest', view?.guest ?? `on receiver ${instance?.receiverName ?? 'unknown'}: ask there`],
    ...(instance === null ? [] : [['Boot check', checkText(instance)] as const]),
    ...(view === null ? [] : replicationRows(view)),
  ];
  const disks = view === null || view.disks.length === 0 ? '' : indented(disksText(view));
  return `\n${title} (${instance?.id ?? view?.id ?? ''})\n${rowsText(rows, '  ')}${disks}`;
}

function checkText({ bootCheck, rtoMs }: Instance): string {
  const rto = rtoMs === null ? '' : `, RTO ${formatDuration(rtoMs)}`;
  if (bootCheck === null) return `none${rto}`;
  return withReason(`${bootCheck.type} ${bootCheck.passed ? 'passed' : 'FAILED'}`, bootCheck.detail) + rto;
}

function replicationRows({ dataAtRisk, lastPoint, problem }: InstanceView): Row[] {
  const risk = riskText(dataAtRisk);
  return [
    ...(risk === null ? [] : [['Data at risk', risk] as const]),
    ...(lastPoint === null ? [] : [['Its last point', String(lastPoint)] as const]),
    ...(problem === null ? [] : [['Problem', oneLine(problem)] as const]),
  ];
}

const disksText = (view: InstanceView): string =>
  table(
    [
      { title: 'DISK' },
      { title: 'SIZE', right: true },
      { title: 'LOCAL', right: true },
      { title: 'HYDRATED', right: true },
      { title: 'CHANGED', right: true },
      { title: 'URI' },
    ],
    view.disks.map((d) => [
      d.disk,
      formatBytes(d.sizeBytes),
      formatBytes(d.localBytes),
      d.hydratedPercent === null ? '-' : `${Math.floor(d.hydratedPercent)} %`,
      formatBytes(d.changedBytes),
      d.uri,
    ]),
  );

const indented = (text: string): string => text.replaceAll(/^(?=.)/gm, '  ');

function operationsText({ allowedOperations, machine }: RecoveryView, all: boolean): string {
  const lines = allowedOperations
    .filter((o) => all || o.allowed)
    .map((o) => {
      const reason = oneLine(o.reason);
      return o.allowed
        ? `  ${commandOf(o.operation, machine.name)}${reason === '' ? '' : `  (${reason})`}\n`
        : `  ${o.operation}: not now, ${reason}\n`;
    });
  return `\nWhat can be done:\n${lines.length === 0 ? '  nothing at the moment\n' : lines.join('')}`;
}
