/**
 * Loaded ahead of a program (`node --import`): its wall clock jumps by AFTERIMAGE_TEST_CLOCK_SKEW_MS once it has run for a while.
 * Monotonic time goes on as it is.
 */
import { performance } from 'node:perf_hooks';

const skewMs = Number(process.env.AFTERIMAGE_TEST_CLOCK_SKEW_MS ?? 0);
const afterMs = Number(process.env.AFTERIMAGE_TEST_CLOCK_SKEW_AFTER_MS ?? 0);
const now = Date.now.bind(Date);
Date.now = () => now() + (performance.now() >= afterMs ? skewMs : 0);
