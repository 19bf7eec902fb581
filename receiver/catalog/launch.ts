/**
 * How a machine is started in the recovery site: its launch settings, kept in the object store (the highest number counts), so that bucket and key
 * are enough for a failover. What isn't set follows from the machine's own description. Schema only.
 */
import { z } from 'zod';

const positive = z.number().int().positive();

/** What proves that a machine came up. `timeoutMs` counts from the start of the guest. */
export const bootCheckSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('none') }),
  /** The text appears on the serial console. */
  z.strictObject({ type: z.literal('serial'), text: z.string().min(1).max(500), timeoutMs: positive }),
  z.strictObject({ type: z.literal('tcp'), host: z.string(), port: positive, timeoutMs: positive }),
  z.strictObject({
    type: z.literal('http'),
    url: z.url(),
    /** Default: any 2xx. */
    status: positive.optional(),
    text: z.string().max(500).optional(),
    timeoutMs: positive,
  }),
  /** Exit code 0, run again until then. Gets AFTERIMAGE_MACHINE, AFTERIMAGE_INSTANCE, AFTERIMAGE_TEST. */
  z.strictObject({ type: z.literal('command'), command: z.array(z.string()).min(1), timeoutMs: positive }),
]);
export type BootCheck = z.infer<typeof bootCheckSchema>;

export const launchNicSchema = z.strictObject({
  /** Default: the address of the source's card, for a failover; a new one for a test. */
  mac: z
    .string()
    .regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/)
    .optional(),
  /** `user`: behind address translation of the host; `isolated`: reaches nothing; `bridge:NAME`; `tap:NAME`. Tests are always isolated unless `testNetwork` says otherwise. */
  network: z.string().regex(/^(user|isolated|bridge:[\w.-]{1,15}|tap:[\w.-]{1,15})$/),
  testNetwork: z
    .string()
    .regex(/^(user|isolated|bridge:[\w.-]{1,15}|tap:[\w.-]{1,15})$/)
    .optional(),
  /** With `user` and `isolated`: host address:port → guest port, so that a check can reach the guest. */
  forwards: z
    .array(
      z.strictObject({ host: z.string(), hostPort: positive, testHostPort: positive.optional(), guestPort: positive }),
    )
    .default([]),
});

export const launchSettingsSchema = z.strictObject({
  provider: z.enum(['qemu', 'command', 'none']).optional(),
  firmware: z.enum(['bios', 'uefi']).optional(),
  cpus: positive.optional(),
  memoryBytes: positive.optional(),
  diskBus: z.enum(['virtio', 'nvme', 'scsi', 'ide']).optional(),
  /** Order of the disks; the first is booted from. Default: as in the manifest. */
  disks: z.array(z.string()).optional(),
  nics: z.array(launchNicSchema).max(16).optional(),
  /** Boots this kernel of the recovery host instead of the disk's boot loader. */
  kernel: z
    .strictObject({ image: z.string(), initrd: z.string().optional(), append: z.string().default('') })
    .optional(),
  /** Further arguments for QEMU, as they are. */
  qemuArguments: z.array(z.string()).max(100).optional(),
  /** For provider `command`: the program and its arguments. */
  command: z.array(z.string()).min(1).optional(),
  bootCheck: bootCheckSchema.optional(),
});
export type LaunchSettings = z.infer<typeof launchSettingsSchema>;
