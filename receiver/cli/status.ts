/**
 * `afterimage status [MACHINE]`: where machines run, what copies of them run here, what can be done next.
 */
import type { RecoveryView } from '../failover/operations.js';
import { configuredSocket, openReceiver } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { printJson, table } from './output.js';
import { viewOf } from './run-operation.js';
import { riskText, statusText } from './status-text.js';

export interface StatusOptions extends GlobalOptions {
  readonly all?: boolean;
}

export async function statusCommand(word: string | undefined, options: StatusOptions, io: CliIo): Promise<void> {
  const service = await openReceiver(options, io);
  if (word !== undefined) {
    const view = await viewOf(service, word, await configuredSocket(options));
    if (options.json === true) printJson(io, view);
    else io.out.write(statusText(view, options.all === true, io.clock.nowMs()));
    return;
  }
  const views = await service.list();
  if (options.json === true) printJson(io, { machines: views });
  else if (views.length === 0) io.err.write('No machines at this receiver.\n');
  else io.out.write(overview(views));
}

function overview(views: readonly RecoveryView[]): string {
  return table(
    [
      { title: 'MACHINE' },
      { title: 'STATE' },
      { title: 'ACTIVE' },
      { title: 'POINT', right: true },
      { title: 'HOME AGENT' },
      { title: 'TEST FAILOVER' },
      { title: 'JOB' },
      { title: 'DATA AT RISK' },
    ],
    views.map((view) => [
      view.machine.name,
      view.recovery?.state ?? 'Protected',
      view.recovery?.activeLocation ?? 'Primary',
      view.lastPoint === 0 ? '-' : String(view.lastPoint),
      view.homeAgent ?? '-',
      view.recovery?.testFailover.state ?? 'None',
      view.recovery?.job?.operation ?? '-',
      view.instances.map((i) => riskText(i.dataAtRisk)).find((text) => text !== null) ?? '-',
    ]),
  );
}
