/** Child of the kill test: writes into an object without end; says so once the first bytes are written. */
import { openStore } from '../../receiver/store/open.js';

const store = await openStore(process.argv[2] ?? '', { create: true });
const writer = await store.openWriter('layers/killed');
for (;;) {
  await writer.write([Buffer.alloc(1 << 16, 1)]);
  process.stdout.write('written\n');
}
