// order-writer DISK_A DISK_B THREADS THINK_US SLOTS STRIDE      (the disks may be files of full size)
// Each thread, for n = 1, 2, ...: writes data n, waits until it is complete, writes its pointer to n, waits. Even threads have their data on
// disk A and their pointer on disk B, odd ones the other way round. Every sector of a block that belongs to step n holds n.
// Layout, in blocks of 4 KiB: pointer of thread t at block t; its data n, DATA_BLOCKS long, at
// POINTERS + (t * SLOTS + n * STEP % SLOTS) * STRIDE.
// Runs until its stdin ends; then prints "done WRITES".
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define SECTOR_WORDS 64
#define POINTERS 16
#define DATA_BLOCKS 2
#define STEP 7919  // neighbours in time aren't neighbours on the disk

static int disks[2];
static int think_us;
static uint64_t slots, stride;
static volatile uint64_t writes;
static volatile int stopping;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void write_blocks(int fd, char *buffer, uint64_t first, size_t count, uint64_t n) {
  for (size_t i = 0; i < count * BLOCK / 8; i += SECTOR_WORDS) ((uint64_t *)buffer)[i] = n;
  if (pwrite(fd, buffer, count * BLOCK, first * BLOCK) != (ssize_t)(count * BLOCK)) fail("write");
  __sync_fetch_and_add(&writes, 1);
}

static void *writer(void *number) {
  uint64_t t = (uint64_t)(long)number, random = 88172645463325252ULL + t * 7919;
  int data = disks[t % 2], pointer = disks[1 - t % 2];
  void *buffer;
  if (posix_memalign(&buffer, BLOCK, DATA_BLOCKS * BLOCK)) fail("memory");
  memset(buffer, 0, DATA_BLOCKS * BLOCK);
  for (uint64_t n = 1; !stopping; n++) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    if (think_us) usleep(random % (2 * think_us));
    uint64_t slot = n * STEP % slots;
    write_blocks(data, buffer, POINTERS + (t * slots + slot) * stride, DATA_BLOCKS, n);
    write_blocks(pointer, buffer, t, 1, n);
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  for (int i = 0; i < 2; i++) {
    disks[i] = open(argv[1 + i], O_RDWR | O_DIRECT);
    if (disks[i] < 0) fail(argv[1 + i]);
  }
  int threads = atoi(argv[3]);
  think_us = atoi(argv[4]);
  slots = strtoull(argv[5], 0, 10);
  stride = strtoull(argv[6], 0, 10);
  pthread_t running[POINTERS];
  if (threads > POINTERS) return 2;
  for (long i = 0; i < threads; i++) pthread_create(&running[i], 0, writer, (void *)i);
  char byte;
  while (read(0, &byte, 1) > 0) continue;
  stopping = 1;
  for (int i = 0; i < threads; i++) pthread_join(running[i], 0);
  printf("done %lu\n", (unsigned long)writes);
  return 0;
}
