/** Starts a guest as a receiver would, says so, and then waits to be killed. Its argument: the spec as JSON. */
import { providerOf } from '../../receiver/failover/compute/index.js';
import type { LaunchSpec } from '../../receiver/failover/compute/provider.js';
import { systemClock } from '../../shared/clock.js';

const spec = JSON.parse(process.argv[2] ?? '') as LaunchSpec;
const provider = providerOf('qemu', { clock: systemClock, env: process.env });
const say = (line: string): void => void process.stdout.write(`${line}\n`);
await provider.start(spec, { signal: new AbortController().signal, say });
say('STARTED');
setInterval(() => undefined, 60_000);
