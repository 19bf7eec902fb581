import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  describeMachine,
  hardwareId,
  hardwareIdOf,
  osNameOf,
  readHardwareFacts,
  type HardwareFacts,
} from '../../agent/describe.js';
import { helloDescriptionSchema } from '../../shared/wire/messages.js';
import { FakeSysfs } from './fake-sysfs.js';

let fake: FakeSysfs;
beforeEach(() => (fake = new FakeSysfs()));
afterEach(() => fake.remove());

describe('description', () => {
  it('fits the message', () => {
    expect(helloDescriptionSchema.safeParse(describeMachine()).success).toBe(true);
    expect(describeMachine().nics.map(({ name }) => name)).not.toContain('lo');
  });

  it('knows UEFI and lists cards', () => {
    fake.write('firmware/efi/systab', '');
    fake.write('class/net/ens9/device/vendor', '0x1af4');
    fake.write('class/net/ens9/address', '52:54:00:12:34:56');
    fake.write('class/net/dummy0/address', '52:54:00:12:34:57');
    fake.write('os-release', 'NAME=x\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"');
    expect(describeMachine(fake.sysfs, fake.root)).toMatchObject({
      firmware: 'uefi',
      os: 'Debian GNU/Linux 12 (bookworm)',
      nics: [{ name: 'ens9', mac: '52:54:00:12:34:56', addresses: [] }],
    });
  });

  it.each([
    ["PRETTY_NAME='A b'", 'A b'],
    ['PRETTY_NAME=Plain', 'Plain'],
    ['NAME="x"', null],
  ])('reads %s', (text, name) => expect(osNameOf(text)).toBe(name));
});

describe('hardware id', () => {
  const facts: HardwareFacts = {
    productUuid: '4C4C4544-0042-4D10-8057-B4C04F563432',
    boardSerial: '/7BMW42/CN1296337L00F1/',
    machineId: '3d1219c7c4c5404aaa1f6d2a48adfda4',
    macs: ['52:54:00:00:00:01', '52:54:00:00:00:02'],
    platform: 'Vendor Model',
  };
  const bare: HardwareFacts = { ...facts, productUuid: null, boardSerial: null };

  it.each<[string, HardwareFacts, HardwareFacts, boolean]>([
    ['case and spelling of the UUID', facts, { ...facts, productUuid: facts.productUuid?.toLowerCase() ?? null }, true],
    ['another network card, with firmware', facts, { ...facts, macs: [] }, true],
    [
      'a clone: the same disk on other hardware',
      facts,
      { ...facts, productUuid: 'aaaaaaaa-0042-4D10-8057-B4C04F563432' },
      false,
    ],
    ['another board', facts, { ...facts, boardSerial: 'x1' }, false],
    ['order of cards', bare, { ...bare, macs: [...bare.macs].reverse() }, true],
    ['a clone without firmware numbers', bare, { ...bare, macs: ['52:54:00:00:00:09'] }, false],
    [
      'a placeholder counts as nothing',
      bare,
      { ...bare, productUuid: '00000000-0000-0000-0000-000000000000', boardSerial: 'None' },
      true,
    ],
  ])('%s', (_, a, b, same) => expect(hardwareIdOf(a) === hardwareIdOf(b)).toBe(same));

  it('reads what the machine tells, and only lasting addresses of real cards', () => {
    fake.write('class/dmi/id/product_uuid', 'u');
    fake.write('class/dmi/id/sys_vendor', 'QEMU');
    for (const [name, type] of [
      ['a', '0'],
      ['b', '1'],
      ['c', '3'],
    ] as const) {
      fake.write(`class/net/${name}/device/vendor`, '1');
      fake.write(`class/net/${name}/addr_assign_type`, type);
      fake.write(`class/net/${name}/address`, `mac-${name}`);
    }
    fake.write('class/net/c/bonding_slave/perm_hwaddr', 'own-c');
    fake.write('class/net/virtual/address', 'mac-v');
    fake.write('machine-id', 'm');
    expect(readHardwareFacts(fake.sysfs, fake.root)).toEqual({
      productUuid: 'u',
      boardSerial: null,
      machineId: 'm',
      macs: ['mac-a', 'own-c'],
      platform: 'QEMU',
    });
  });

  it('is stable here, and can be set for tests', () => {
    expect(hardwareId({})).toMatch(/^[0-9a-f]{64}$/);
    expect(hardwareId({})).toBe(hardwareId({}));
    expect(hardwareId({ AFTERIMAGE_HARDWARE_ID: 'twin' })).toBe('twin');
  });
});
