/**
 * What database servers say in their logs about the recovery with which they began. Pure.
 */
export interface Recovery {
  readonly postgres: {
    /** Where redo began; '' when there was nothing to do. */
    readonly from: string;
    readonly bytes: number;
    readonly to: string;
  };
  readonly mariadb: {
    /** Infinity: there was nothing to do. */
    readonly from: number;
    readonly bytes: number;
  };
}

const found = (pattern: RegExp, log: string): string => pattern.exec(log)?.[1] ?? '';

/** Positions in PostgreSQL's log as numbers. */
export function position(text: string): number {
  const [high = '', low = ''] = text.split('/');
  return parseInt(high, 16) * 2 ** 32 + parseInt(low, 16);
}

export function recoveryOf(postgresLog: string, mariadbLog: string): Recovery {
  const [from, to] = [found(/redo starts at (\S+)/, postgresLog), found(/redo done at (\S+)/, postgresLog)];
  const checkpoint = found(/crash recovery from checkpoint LSN=(\d+)/, mariadbLog);
  const end = found(/End of log at LSN=(\d+)/, mariadbLog);
  return {
    postgres: {
      from,
      bytes: from === '' ? 0 : position(to) - position(from),
      to,
    },
    mariadb: {
      from: checkpoint === '' ? Infinity : Number(checkpoint),
      bytes: checkpoint === '' ? 0 : Number(end) - Number(checkpoint),
    },
  };
}
