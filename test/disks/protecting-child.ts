/**
 * Child of the test of racing changes: protects image files one after another, and gives up every other one; or follows a rule, as the daemon does.
 * Arguments: state folder, `files` or `rule`, then the files, or the name of the device.
 */
import { createLogger } from '../../shared/log.js';
import { Sysfs } from '../../agent/disks/sysfs.js';
import { RuleProtection } from '../../agent/protect-by-rule.js';
import { protect, unprotect } from '../../agent/protect.js';

const [stateDir = '', what = '', ...words] = process.argv.slice(2);

if (what === 'files') {
  for (const [i, file] of words.entries()) {
    await protect(stateDir, [file], () => crypto.randomUUID());
    if (i % 2 === 0) continue;
    const nothing = {
      pinDirectory: '/nowhere',
      reload: () => Promise.resolve(),
      takeBack: () => Promise.resolve(),
      ruleFor: () => null,
    };
    await unprotect(stateDir, file, nothing);
  }
} else {
  const disks = { include: words.map((name) => ({ name })), exclude: [] };
  const rules = new RuleProtection({ stateDir, disks }, new Sysfs(), createLogger('test', 'error'));
  await rules.look();
}
