/** What is counted of agents that come and go between receivers, since the start. */
export interface FleetCounters {
  /** Agents sent to another receiver: when they said hello, or from a session that stood. */
  redirects: number;
  /** Machines taken over whose agent came from another receiver. */
  takeovers: number;
  /** Machines that other receivers called for and that were sent there. */
  calledAway: number;
}

export const newFleetCounters = (): FleetCounters => ({ redirects: 0, takeovers: 0, calledAway: 0 });
