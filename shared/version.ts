/** Version of this program: that of the package. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

/** package.json stands above `shared/` in a checkout, and above `dist/shared/` in what is installed. */
function readVersion(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (let i = 0; i < 3; i++, folder = dirname(folder)) {
    try {
      return z.object({ version: z.string() }).parse(JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')))
        .version;
    } catch {
      continue;
    }
  }
  return 'unknown';
}

export const VERSION = readVersion();
