import js from '@eslint/js';
import tseslint from 'typescript-eslint';

/** Layering (design, section 7): each folder may import only what stands below it. */
const layer = (files, forbidden, why) => ({
  files,
  rules: { 'no-restricted-imports': ['error', { patterns: [{ group: forbidden, message: why }] }] },
});

/** Ambient time and randomness are passed in; these files are where they come in. */
const AMBIENT = ['shared/clock.ts', '**/main.ts', '**/daemon.ts', 'test/**', 'bench/**'];

/** Timers that no simulated world runs: they guard other processes, or close what rests. */
const TIMERS = [
  'agent/quiesce/guard.ts',
  'agent/quiesce/guard-main.ts',
  'receiver/failover/compute/qmp.ts',
  'receiver/store/open-files.ts',
];

export default tseslint.config(
  { ignores: ['dist/**', 'node_modules/**', 'test/golden/**', 'vitest.config.ts'] },
  js.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/only-throw-error': [
        'error',
        { allowThrowingUnknown: true, allowThrowingAny: true, allowRethrowing: true },
      ],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      // State that changes across an await looks constant to the type checker.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/no-non-null-assertion': 'error',
      'no-restricted-syntax': [
        'error',
        {
          selector: "CallExpression[callee.object.name='Date'][callee.property.name='now']",
          message: 'Time is passed in (shared/clock.ts).',
        },
        {
          selector: "CallExpression[callee.object.name='Math'][callee.property.name='random']",
          message: 'Randomness is passed in.',
        },
        {
          selector: 'CallExpression[callee.name=/^set(Timeout|Interval)$/]',
          message: 'Waiting is passed in as well (Clock.sleep): the simulation has a time of its own.',
        },
      ],
      'max-lines': ['error', { max: 450, skipBlankLines: true, skipComments: true }],
    },
  },
  { files: [...AMBIENT, ...TIMERS], rules: { 'no-restricted-syntax': 'off' } },
  layer(['shared/**'], ['**/agent/**', '**/receiver/**', '**/test/**'], 'shared imports neither side.'),
  layer(['systemd/**'], ['**/agent/**', '**/receiver/**', '**/test/**'], 'Packaging needs nothing of what it packs.'),
  layer(['agent/**'], ['**/receiver/**', '**/test/**'], 'The agent does not import the receiver.'),
  layer(['receiver/**'], ['**/agent/**', '**/test/**'], 'The receiver does not import the agent.'),
  layer(
    ['receiver/store/**'],
    [
      '**/agent/**',
      '**/catalog/**',
      '**/fleet/**',
      '**/session/**',
      '**/volume/**',
      '**/failover/**',
      '**/api/**',
      '**/cli/**',
      '**/test/**',
    ],
    'store stands below everything else.',
  ),
  layer(
    ['receiver/catalog/**'],
    [
      '**/agent/**',
      '**/fleet/**',
      '**/session/**',
      '**/volume/**',
      '**/failover/**',
      '**/api/**',
      '**/cli/**',
      '**/test/**',
    ],
    'catalog knows the store only.',
  ),
  layer(
    ['receiver/volume/**'],
    ['**/agent/**', '**/session/**', '**/failover/**', '**/api/**', '**/cli/**', '**/test/**'],
    'volume does not know session, failover, api or cli.',
  ),
  layer(
    ['receiver/fleet/**'],
    ['**/agent/**', '**/session/**', '**/volume/**', '**/failover/**', '**/api/**', '**/cli/**', '**/test/**'],
    'fleet knows store and catalog only.',
  ),
  layer(
    ['receiver/session/**'],
    ['**/agent/**', '**/failover/**', '**/api/**', '**/cli/**', '**/test/**'],
    'session does not know failover, api or cli.',
  ),
  layer(
    ['receiver/groups/**'],
    ['**/agent/**', '**/volume/**', '**/failover/**', '**/api/**', '**/cli/**', '**/test/**'],
    'groups know session, catalog and store only.',
  ),
  layer(
    ['receiver/failover/**'],
    ['**/agent/**', '**/api/**', '**/cli/**', '**/test/**'],
    'failover does not know api or cli.',
  ),
  { files: ['**/*.js', '**/*.mjs'], ...tseslint.configs.disableTypeChecked },
  { files: ['**/*.mjs'], languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly' } } },
  // Tests reach into things on purpose; long tables of cases are easier to read in one file.
  {
    files: ['test/**', 'bench/**'],
    rules: {
      'max-lines': ['error', { max: 600, skipBlankLines: true, skipComments: true }],
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      '@typescript-eslint/unbound-method': 'off',
    },
  },
);
