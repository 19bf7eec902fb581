/**
 * Test guests in QEMU as child processes of the test: source machines in end-to-end tests. (Guests of a failover are started by the receiver.)
 * They end with the test's process, if that ends at all regularly.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { QmpClient } from '../../receiver/failover/compute/qmp.js';
import { plainKernel, type GuestKind } from './image.js';

export * from './image.js';
export * from './writer-log.js';

export interface BootOptions {
  readonly kind: GuestKind;
  /** Path of a file or block device, or `nbd+unix:///EXPORT?socket=PATH`; a list for several, the first is booted from. */
  readonly disk: string | readonly string[];
  /** Default nvme: needs no initramfs. */
  readonly bus?: 'nvme' | 'virtio';
  /** File for the serial console; emptied first. */
  readonly serialPath: string;
  /** Unix socket, if QMP is wanted (powerDown needs it). */
  readonly qmpSocket?: string;
  /** Host port of the guest's web server; default: a free one. */
  readonly httpPort?: number;
  readonly memoryMib?: number;
  readonly cpus?: number;
  /** Serial number of the first disk; further ones have `-1`, `-2` … behind it. */
  readonly serial?: string;
  readonly uuid?: string;
  readonly extraArguments?: readonly string[];
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const running = new Set<ChildProcess>();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/** Waits until a file of a serial console holds a text. */
export async function waitForSerial(path: string, text: string, timeoutMs = 60_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!readFileSync(path, 'latin1').includes(text)) {
    if (performance.now() > end) {
      throw new Error(`no ${JSON.stringify(text)} in ${path} within ${timeoutMs} ms:\n${readFileSync(path, 'latin1')}`);
    }
    await sleep(50);
  }
}

/** The guest's answer; an error when there is none or the status isn't 2xx. */
export async function guestHttp(port: number, path: string, timeoutMs = 20_000): Promise<string> {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { signal: AbortSignal.timeout(timeoutMs) });
  if (!answer.ok) throw new Error(`${path}: HTTP status ${answer.status}`);
  return answer.text();
}

export class Guest {
  readonly #child: ChildProcess;
  /** Resolves when QEMU is gone: its exit code, null after a signal. */
  readonly ended: Promise<number | null>;

  constructor(
    child: ChildProcess,
    readonly httpPort: number,
    readonly serialPath: string,
    readonly qmpSocket: string | undefined,
  ) {
    this.#child = child;
    running.add(child);
    this.ended = once(child, 'exit').then(([code]) => {
      running.delete(child);
      return code as number | null;
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get isRunning(): boolean {
    return running.has(this.#child);
  }

  /** All that stands on the serial console so far. */
  serial(): string {
    return readFileSync(this.serialPath, 'latin1');
  }

  waitFor(text: string, timeoutMs?: number): Promise<void> {
    return Promise.race([
      waitForSerial(this.serialPath, text, timeoutMs),
      this.ended.then(async (code) => {
        if (!this.serial().includes(text)) {
          throw new Error(`the guest ended (exit code ${code}) before ${JSON.stringify(text)}:\n${this.serial()}`);
        }
      }),
    ]);
  }

  http(path: string, timeoutMs?: number): Promise<string> {
    return guestHttp(this.httpPort, path, timeoutMs);
  }

  /** An acknowledged write of a line to /data.log. */
  async append(line: string | number): Promise<void> {
    const answer = await this.http(`/cgi-bin/append?${line}`);
    if (answer.trim() !== `OK ${line}`) throw new Error(`append ${line}: ${answer}`);
  }

  /** Presses the power button and waits until the guest has powered itself off. */
  async powerDown(timeoutMs = 30_000): Promise<void> {
    if (this.qmpSocket === undefined) throw new Error('powerDown needs qmpSocket');
    const qmp = await QmpClient.connect(this.qmpSocket);
    try {
      await qmp.execute('system_powerdown');
      const code = await Promise.race([this.ended, sleep(timeoutMs).then(() => 'late' as const)]);
      if (code !== 0)
        throw new Error(`power down: ${code === 'late' ? 'too late' : `exit code ${code}`}\n${this.serial()}`);
    } finally {
      qmp.close();
    }
  }

  /** As a power cut. Resolves when the process is gone. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.ended;
  }
}

/** Starts a guest; it isn't up yet: waitFor('READY'). */
export async function bootGuest(options: BootOptions): Promise<Guest> {
  const { kind, disk, bus = 'nvme', serialPath, qmpSocket, serial = 'guest', memoryMib = 256, cpus = 1 } = options;
  const httpPort = options.httpPort ?? (await freePort());
  const q = ['-accel', 'tcg,thread=multi', '-cpu', 'max', '-m', `${memoryMib}M`, '-smp', String(cpus)];
  q.push('-display', 'none', '-nodefaults', '-serial', `file:${serialPath}`);
  if (options.uuid !== undefined) q.push('-uuid', options.uuid);
  if (kind === 'plain') {
    const { image, initrd, append } = plainKernel(bus);
    q.push('-kernel', image, '-append', append, ...(initrd === undefined ? [] : ['-initrd', initrd]));
  }
  if (kind === 'uefi') q.push('-bios', '/usr/share/ovmf/OVMF.fd');
  for (const [i, file] of (typeof disk === 'string' ? [disk] : disk).entries()) {
    const model = bus === 'nvme' ? 'nvme' : 'virtio-blk-pci';
    q.push(
      '-drive',
      `file=${file.replaceAll(',', ',,')},if=none,id=d${i},format=raw,discard=unmap,cache=none,aio=threads`,
    );
    q.push('-device', `${model},drive=d${i},serial=${i === 0 ? serial : `${serial}-${i}`},bootindex=${i + 1}`);
  }
  q.push('-netdev', `user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:${httpPort}-:80`);
  q.push('-device', 'virtio-net-pci,netdev=n0,romfile=');
  if (qmpSocket !== undefined) q.push('-qmp', `unix:${qmpSocket},server=on,wait=off`);
  q.push(...(options.extraArguments ?? []));
  writeFileSync(serialPath, '');
  const log = openSync(`${serialPath}.qemu`, 'w');
  const child = spawn('qemu-system-x86_64', q, { stdio: ['ignore', log, log] });
  closeSync(log);
  await once(child, 'spawn');
  return new Guest(child, httpPort, serialPath, qmpSocket);
}
