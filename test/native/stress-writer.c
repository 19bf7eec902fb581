// stress-writer DEVICE THREADS THINK_US MAX_BLOCKS SEED
// Random direct writes of 1..MAX_BLOCKS blocks of 4 KiB, each with fresh content; one in 50 is a discard or a zero-out.
// For each line "MS" on stdin it writes that long, waits until every write has returned, and prints "done WRITES".
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BLOCK 4096
#define WORDS_APART 64  // one random number per sector

static uint64_t device_blocks, seed;
static volatile uint64_t writes;
static int fd, think_us, max_blocks;
static volatile int running;
static pthread_barrier_t barrier;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t next_random(uint64_t *state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}

static void discard_or_zero(uint64_t choice, uint64_t first, uint64_t count) {
  uint64_t range[2] = {first * BLOCK, count * BLOCK};
  if (ioctl(fd, choice & 256 ? BLKDISCARD : BLKZEROOUT, range)) fail("discard");
}

static void write_once(uint64_t *state, char *buffer) {
  uint64_t count = 1 + (next_random(state) % 8 == 0 ? next_random(state) % max_blocks : 0);
  uint64_t first = next_random(state) % (device_blocks - count + 1);
  uint64_t choice = next_random(state);
  if (choice % 50 == 0) {
    discard_or_zero(choice, first, count);
  } else {
    for (uint64_t i = 0; i < count * BLOCK / 8; i += WORDS_APART) ((uint64_t *)buffer)[i] = next_random(state);
    if (pwrite(fd, buffer, count * BLOCK, first * BLOCK) != (ssize_t)(count * BLOCK)) fail("write");
  }
  __sync_fetch_and_add(&writes, 1);
}

static void *writer(void *number) {
  uint64_t state = seed * 0x9e3779b97f4a7c15ULL + (uint64_t)(long)number + 1;
  void *buffer;
  if (posix_memalign(&buffer, BLOCK, (size_t)max_blocks * BLOCK)) fail("memory");
  for (;;) {
    pthread_barrier_wait(&barrier);
    while (running) {
      if (think_us) usleep(next_random(&state) % (2 * think_us));
      write_once(&state, buffer);
    }
    pthread_barrier_wait(&barrier);
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  fd = open(argv[1], O_RDWR | O_DIRECT);
  if (fd < 0) fail(argv[1]);
  device_blocks = lseek(fd, 0, SEEK_END) / BLOCK;
  int threads = atoi(argv[2]);
  think_us = atoi(argv[3]);
  max_blocks = atoi(argv[4]);
  seed = strtoull(argv[5], 0, 10);
  pthread_barrier_init(&barrier, 0, threads + 1);
  for (long i = 0; i < threads; i++) {
    pthread_t thread;
    pthread_create(&thread, 0, writer, (void *)i);
  }
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    running = 1;
    pthread_barrier_wait(&barrier);
    usleep(atoi(line) * 1000);
    running = 0;
    pthread_barrier_wait(&barrier);
    printf("done %lu\n", (unsigned long)writes);
    fflush(stdout);
  }
  return 0;
}
