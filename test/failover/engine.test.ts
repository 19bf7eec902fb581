/** What each operation comes to when nothing disturbs it, and in which order it acts. */
import { afterAll, describe, expect, it } from 'vitest';
import { removeCopiesFolders } from './fakes.js';
import { run, SCENARIOS } from './scenarios.js';

afterAll(removeCopiesFolders);

const scenario = (name: string) => {
  const found = SCENARIOS.find((s) => s.name === name);
  if (found === undefined) throw new Error(name);
  return found;
};

describe('operations', () => {
  it.each(SCENARIOS.map((s) => s.name))('%s', async (name) => {
    const { end, world } = await run(scenario(name));
    console.log(name, JSON.stringify(end), world.effects.join(' '), JSON.stringify((await world.recovery())?.jobs[0]?.tasks.map((t) => `${t.name}:${t.state}:${t.detail}`)));
    expect(world.violations).toEqual([]);
  });
});
