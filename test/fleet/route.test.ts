/** Which address an agent dials next. */
import { describe, expect, it } from 'vitest';
import { NO_FLEET, Route } from '../../agent/session/route.js';
import { SessionEnded } from '../../agent/session/session.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import type { KnownReceiver } from '../../shared/wire/messages.js';
import { randomOf } from '../helpers/random.js';

const A = { id: 'aaaaaaaa-0000-4000-8000-000000000000', name: 'a', addresses: ['a:1'] };
const B = { id: 'bbbbbbbb-0000-4000-8000-000000000000', name: 'b', addresses: ['b:1', 'b:2'] };
const C = { id: 'cccccccc-0000-4000-8000-000000000000', name: 'c', addresses: ['c:1'] };
const routeOf = (receivers: KnownReceiver[] = [], last: string | null = null): Route =>
  new Route(['home:1'], { ...NO_FLEET, receivers, last }, randomOf(1));
const failed = (route: Route): string =>
  route.ended({ address: route.next(), connected: false, welcomed: false, ended: null });
const redirectTo = (to: KnownReceiver): SessionEnded =>
  new SessionEnded('redirected', CLOSE.redirected, { type: 'redirect', to, reason: '' });
const redirected = (route: Route, to: KnownReceiver): string =>
  route.ended({ address: route.next(), connected: true, welcomed: false, ended: redirectTo(to) });

describe('the route of an agent', () => {
  it('begins at the enrolment, and with the address that worked last after that', () => {
    expect(routeOf().next()).toBe('home:1');
    expect(routeOf([A, B], 'b:1').next()).toBe('b:1');
  });

  it('goes through all that are known before it waits for the next round', () => {
    const route = routeOf([A, B, C], 'a:1');
    const tried: string[] = [];
    const paces: string[] = [];
    for (let i = 0; i < 5; i++) {
      tried.push(route.next());
      paces.push(failed(route));
    }
    expect(tried[0]).toBe('a:1');
    expect([...tried].sort()).toEqual(['a:1', 'b:1', 'b:2', 'c:1', 'home:1']);
    expect(paces).toEqual(['next', 'next', 'next', 'next', 'round']);
    expect(route.next()).toBe('a:1');
  });

  it('follows a redirect at once, says so, and tries all of its addresses', () => {
    const route = routeOf([A], 'a:1');
    expect(redirected(route, B)).toBe('now');
    expect(route.next()).toBe('b:1');
    expect(route.soFar).toEqual({ redirects: 1, unreachable: [] });
    expect(failed(route)).toBe('next');
    expect(route.next()).toBe('b:2');
    failed(route);
    // Back to the others, who are told whom it could not reach: though nobody had told it of B before.
    expect(['a:1', 'home:1']).toContain(route.next());
    expect(route.soFar).toEqual({ redirects: 1, unreachable: [B.id] });
  });

  it('reaches a receiver by its second address', () => {
    const route = routeOf();
    redirected(route, B);
    failed(route);
    const pace = route.ended({ address: route.next(), connected: true, welcomed: false, ended: redirectTo(C) });
    expect(pace).toBe('now');
    expect(route.soFar).toEqual({ redirects: 2, unreachable: [] });
  });

  it('comes straight again once it was taken', () => {
    const route = routeOf([A]);
    redirected(route, A);
    expect(route.next()).toBe('a:1');
    expect(route.welcomed('a:1')).toBe(true);
    expect(route.soFar).toBeUndefined();
    expect(route.fleet.last).toBe('a:1');
    expect(route.welcomed('a:1')).toBe(false);
  });

  it('does not count redirects on when it was refused: a second agent must not talk itself in elsewhere', () => {
    const route = routeOf([A, B]);
    redirected(route, A);
    const refused = new SessionEnded('refused', CLOSE.alreadyConnected);
    route.ended({ address: route.next(), connected: true, welcomed: false, ended: refused });
    expect(route.soFar?.redirects ?? 0).toBe(0);
  });

  it('waits, and asks the same again, after a refusal that an operator has to resolve', () => {
    const route = routeOf([A, B], 'a:1');
    const refused = new SessionEnded('refused', CLOSE.failedOver);
    expect(route.ended({ address: 'a:1', connected: true, welcomed: false, ended: refused })).toBe('round');
    expect(route.next()).toBe('a:1');
  });

  it('asks a receiver that was lost first, and one that stops last', () => {
    const lost = routeOf([A, B, C], 'a:1');
    lost.ended({ address: 'a:1', connected: true, welcomed: true, ended: new SessionEnded('lost', null) });
    expect(lost.next()).toBe('a:1');
    const stops = routeOf([A, B, C], 'a:1');
    stops.ended({ address: 'a:1', connected: true, welcomed: true, ended: new SessionEnded('stops', CLOSE.goingAway) });
    expect(stops.next()).not.toBe('a:1');
    expect(stops.soFar?.unreachable).toEqual([A.id]);
  });

  it('comes anew to the one that told it so, and has no doubt about it', () => {
    const route = routeOf([A, B, C], 'a:1');
    route.ended({ address: 'a:1', connected: true, welcomed: true, ended: new SessionEnded('anew', CLOSE.comeAnew) });
    expect(route.next()).toBe('a:1');
    expect(route.soFar).toBeUndefined();
  });

  it('tries the addresses of those that have gone when nobody else answers', () => {
    const route = routeOf([A, B], 'a:1');
    expect(route.learnt({ receivers: [A] })).toBe(true);
    expect(route.learnt({ receivers: [C] })).toBe(true);
    expect(route.fleet.former).toEqual(['a:1', 'b:1', 'b:2']);
    const tried: string[] = [];
    for (let i = 0; i < 5; i++) {
      tried.push(route.next());
      failed(route);
    }
    expect([...tried.slice(0, 3)].sort()).toEqual(['a:1', 'c:1', 'home:1']);
    expect([...tried.slice(3)].sort()).toEqual(['b:1', 'b:2']);
    // Back again, they are no past.
    route.learnt({ receivers: [B] });
    expect(route.fleet.former).toEqual(['c:1', 'a:1']);
  });

  it('never forgets the address of the enrolment', () => {
    const route = routeOf([A], 'a:1');
    route.learnt({ receivers: [B] });
    const tried = new Set<string>();
    for (let i = 0; i < 8; i++) {
      tried.add(route.next());
      failed(route);
    }
    expect(tried).toContain('home:1');
  });
});
