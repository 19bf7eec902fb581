/**
 * What the Debian packages are made of. Pure data.
 */
export type PackageName = 'afterimage-agent' | 'afterimage-receiver';

export interface Recipe {
  readonly name: PackageName;
  /** First line, and the paragraph below it, of the description. */
  readonly synopsis: string;
  readonly description: readonly string[];
  /** Folders of `dist/` that it runs from. */
  readonly folders: readonly string[];
  /** Name in /usr/bin, and the file of `dist/` that it runs. */
  readonly commands: Readonly<Record<string, string>>;
  /** Files of systemd/, and where they go. */
  readonly units: Readonly<Record<string, string>>;
  readonly depends: readonly string[];
  readonly recommends: readonly string[];
  /** Folder of the maintainer scripts. */
  readonly scripts: string;
}

const UNIT_FOLDER = 'usr/lib/systemd/system';
/** What the bundled Node.js is linked against (node-binary.ts sees to it that it is no more). */
const NODE_DEPENDS = ['libc6 (>= 2.28)', 'libgcc-s1', 'libstdc++6 (>= 5.2)'];
/** Used where they are there; what is inside does without them, at more CPU. */
const FASTER = ['liblz4-1', 'libxxhash0'];

export const RECIPES: Readonly<Record<PackageName, Recipe>> = {
  'afterimage-agent': {
    name: 'afterimage-agent',
    synopsis: 'disaster recovery: follows the blocks that change on this machine',
    description: [
      'Follows the changes of this machine’s disks, without a kernel module, and',
      'streams them to a receiver in the recovery site as recovery points.',
    ],
    folders: ['agent', 'shared'],
    commands: { 'afterimage-agent': 'agent/main.js' },
    units: {
      'afterimage-agent.service': UNIT_FOLDER,
      'afterimage-arm.service': UNIT_FOLDER,
      'afterimage-close.service': UNIT_FOLDER,
      'afterimage-agent.shutdown': 'usr/lib/systemd/system-shutdown',
    },
    depends: NODE_DEPENDS,
    recommends: FASTER,
    scripts: 'agent',
  },
  'afterimage-receiver': {
    name: 'afterimage-receiver',
    synopsis: 'disaster recovery: takes in what agents stream, and recovers machines',
    description: [
      'Commits what the agents of protected machines stream to object storage as',
      'recovery points; brings them back as disks, or as running machines.',
    ],
    folders: ['receiver', 'shared'],
    commands: { 'afterimage-receiver': 'receiver/main.js', afterimage: 'receiver/cli/main.js' },
    units: {
      'afterimage-receiver.service': UNIT_FOLDER,
      'afterimage-receiver.sysusers': 'usr/lib/sysusers.d/afterimage-receiver.conf',
    },
    depends: [...NODE_DEPENDS, 'systemd'],
    recommends: [...FASTER, 'qemu-system'],
    scripts: 'receiver',
  },
};

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

/** Debian's name of a processor architecture; undefined where there is none of ours. */
export const debianArchitecture = (arch: string): string | undefined => ARCHITECTURES[arch];

export interface ControlFacts {
  readonly version: string;
  readonly architecture: string;
  readonly installedKib: number;
}

/** deb-control(5). */
export function controlText(recipe: Recipe, { version, architecture, installedKib }: ControlFacts): string {
  return [
    `Package: ${recipe.name}`,
    `Version: ${version}`,
    `Architecture: ${architecture}`,
    'Maintainer: Afterimage <afterimage@localhost>',
    `Installed-Size: ${installedKib}`,
    `Depends: ${recipe.depends.join(', ')}`,
    `Recommends: ${recipe.recommends.join(', ')}`,
    'Section: admin',
    'Priority: optional',
    `Description: ${recipe.synopsis}`,
    ...recipe.description.map((line) => ` ${line}`),
    '',
  ].join('\n');
}

/** deb-version(7), as far as we use it. */
export const isDebianVersion = (text: string): boolean => /^[0-9][A-Za-z0-9.+~-]*$/.test(text);
