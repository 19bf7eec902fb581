/** NBD over TCP: TLS with certificates of the receiver's CA, by libnbd and QEMU. */
import { mkdir, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { asMachineId, MIB } from '../../shared/units.js';
import { createRequest, generateKeys, privateKeyToPem } from '../../shared/x509.js';
import { openAuthority, type CertificateAuthority } from '../../receiver/session/ca.js';
import type { NbdTls } from '../../receiver/volume/nbd/server.js';
import { nbdUri } from '../../receiver/volume/nbd/uri.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryDevice } from '../helpers/memory-device.js';
import { missingTools, must, optionOf, PYTHON, run, serve, stopServers } from './nbd-world.js';

removeTempFolders();
afterEach(stopServers);
const missing = missingTools(PYTHON, 'nbdinfo', 'qemu-io');

let folder: string;
let tls: NbdTls;

/** A folder as libnbd and QEMU want it. */
async function clientFolder(ca: CertificateAuthority, name: string, trusted = ca): Promise<string> {
  const path = join(folder, name);
  const keys = await generateKeys();
  await mkdir(path);
  await writeFile(join(path, 'client-key.pem'), await privateKeyToPem(keys.privateKey));
  await writeFile(join(path, 'client-cert.pem'), await ca.issueAgent(asMachineId(name), await createRequest(keys)));
  await writeFile(join(path, 'ca-cert.pem'), trusted.certificatePem);
  return path;
}

let [operator, agent, stranger, nobody] = ['', '', '', ''];

beforeAll(async () => {
  folder = await tempFolder('nbd-tls');
  const ca = await openAuthority(join(folder, 'state'), systemClock);
  const otherCa = await openAuthority(join(folder, 'other-state'), systemClock);
  const { keyPem, chainPem } = await ca.issueServer([]);
  tls = { keyPem, certificatePem: chainPem, caPem: ca.certificatePem };
  operator = await clientFolder(ca, 'operator');
  agent = await clientFolder(ca, '01234567-89ab-4cde-8f01-23456789abcd');
  stranger = await clientFolder(otherCa, 'stranger', ca);
  nobody = join(folder, 'nobody');
  await mkdir(nobody);
  await writeFile(join(nobody, 'ca-cert.pem'), ca.certificatePem);
});

const world = () => {
  const device = new MemoryDevice(40 * MIB);
  return serve({ disk: device }, { listen: { host: '127.0.0.1', port: 0, tls } });
};

describe.skipIf(missing.length > 0)('NBD over TLS', () => {
  it('libnbd and QEMU read and write', async () => {
    const { server } = await world();
    const uri = nbdUri({ host: 'localhost', port: server.port, tls: true }, 'disk');
    await must(PYTHON, [
      '-c',
      `
import nbd, sys, random
h = nbd.NBD()
h.set_tls_certificates(sys.argv[2])
h.connect_uri(sys.argv[1])
assert h.get_tls_negotiated() and h.get_structured_replies_negotiated()
data = random.randbytes(32 << 20)
h.pwrite(data, 999)
assert h.pread(len(data), 999) == data
for i in range(200): h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 3000), i * 3000)
while h.aio_in_flight() > 0: h.poll(-1)
for i in range(200): assert h.pread(3000, i * 3000) == bytes([i]) * 3000
h.shutdown()
`,
      uri,
      operator,
    ]);
    const image = `driver=nbd,server.type=inet,server.host=localhost,server.port=${server.port},export=disk,tls-creds=t`;
    const credentials = ['--object', `tls-creds-x509,id=t,endpoint=client,dir=${operator}`];
    const commands = ['-c', 'write -P 0x5a 1M 8M', '-c', 'flush', '-c', 'read -P 0x5a 1M 8M'];
    const output = await must('qemu-io', [...credentials, '--image-opts', ...commands, image]);
    expect(output).not.toMatch(/fail/i);
    expect(server.stats).toMatchObject({ errors: 0, cutOff: 0, heldBytes: 0 });
  });

  it.each([
    ['a certificate of another CA', () => stranger],
    ["a machine's agent", () => agent],
    ['no certificate', () => nobody],
  ])('%s gets nothing', async (_what, certificates) => {
    const { server } = await world();
    const uri = nbdUri({ host: 'localhost', port: server.port, tls: true }, 'disk');
    const { code } = await run('nbdinfo', ['--size', `${uri}?tls-certificates=${certificates()}`]);
    expect(code).not.toBe(0);
    expect(server.stats).toMatchObject({ requests: 0 });
    expect((await run('nbdinfo', ['--size', `${uri}?tls-certificates=${operator}`])).stdout).toBe(`${40 * MIB}\n`);
  });

  it('nothing is said in the clear', async () => {
    const { server } = await world();
    const uri = nbdUri({ host: '127.0.0.1', port: server.port, tls: false }, 'disk');
    expect((await run('nbdinfo', [uri])).code).not.toBe(0);
    const answers = await new Promise<Buffer>((resolve) => {
      const socket = connect(server.port, '127.0.0.1');
      let received = Buffer.alloc(0);
      socket.on('data', (chunk) => (received = Buffer.concat([received, chunk])));
      socket.on('error', () => undefined);
      socket.on('close', () => resolve(received));
      socket.write(
        Buffer.concat([Buffer.from([0, 0, 0, 3]), optionOf(3, Buffer.alloc(0)), optionOf(8, Buffer.alloc(0))]),
      );
      // Bytes right behind STARTTLS could be somebody else's: that ends it.
      socket.write(Buffer.concat([optionOf(5, Buffer.alloc(0)), optionOf(3, Buffer.alloc(0))]));
    });
    expect(answers.includes('disk')).toBe(false);
    // The greeting and two refusals, no consent to TLS.
    expect(answers.length).toBe(18 + 2 * (20 + 'TLS is required here'.length));
    const types = [answers.readUInt32BE(18 + 12), answers.readUInt32BE(18 + 40 + 12)];
    expect(types.every((type) => type === 0x8000_0005)).toBe(true);
    expect(server.stats.cutOff).toBe(1);
  });

  it('is required for other hosts', async () => {
    const start = serve({}, { listen: { host: '0.0.0.0', port: 0 } });
    await expect(start).rejects.toMatchObject({ kind: 'usage' });
  });
});

describe('addresses', () => {
  it.each([
    [nbdUri({ socketPath: '/run/a b/nbd.sock' }, 'disk1'), 'nbd+unix:///disk1?socket=/run/a%20b/nbd.sock'],
    [nbdUri({ socketPath: '/s' }, ''), 'nbd+unix:///?socket=/s'],
    [nbdUri({ host: 'dr.example.com', port: 10809, tls: true }, 'a/b'), 'nbds://dr.example.com/a%2Fb'],
    [nbdUri({ host: '::1', port: 99, tls: false }, 'd'), 'nbd://[::1]:99/d'],
  ])('%s', (uri, expected) => expect(uri).toBe(expected));
});
