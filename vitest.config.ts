import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Loop devices, pins and two cores are shared: files run one after the other.
    fileParallelism: false,
    // Threads that the code under test starts run sources as well.
    execArgv: ['--import', './test/helpers/ts-loader.mjs'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    globalSetup: ['test/setup/build.ts'],
    reporters: ['default', './test/setup/closing-line.ts'],
  },
});
