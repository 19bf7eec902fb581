/** What a file that a point is written to can be. Apart from the targets, which command lines need not load. */
export const TARGET_FORMATS = ['raw', 'qcow2'] as const;
export type TargetFormat = (typeof TARGET_FORMATS)[number];
