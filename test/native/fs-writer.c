// fs-writer FOLDER_A FOLDER_B THREADS THINK_US SEED
// Everything that programs do to files, at random: writes (buffered, direct, through memory maps), truncation, holes, zeroed ranges, renames,
// deletions, with and without fsync. Thread t works in folder A or B. The first thread keeps two logs instead: it appends n to A/log, waits
// until that is durable, appends n to B/log, waits: so A/log is never behind B/log, nor more than one record ahead.
// For each line "MS" on stdin it works that long, waits until every call has returned, and prints "done OPERATIONS".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 4096
#define FILES 12
#define FILE_BLOCKS 256
#define WRITE_BLOCKS 16

static const char *folders[2];
static uint64_t seed, think_us;
static volatile uint64_t operations;
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

static void through_map(int fd, uint64_t *random) {
  struct stat st;
  if (fstat(fd, &st)) fail("stat");
  if (st.st_size < BLOCK) return;
  char *bytes = mmap(0, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (bytes == MAP_FAILED) fail("mmap");
  for (int i = 0; i < 8; i++) memset(bytes + next_random(random) % (st.st_size - 64), (int)next_random(random), 64);
  if (next_random(random) % 2 && msync(bytes, st.st_size, MS_SYNC)) fail("msync");
  munmap(bytes, st.st_size);
}

static void write_some(int fd, char *buffer, uint64_t *random, int aligned) {
  size_t length = (1 + next_random(random) % WRITE_BLOCKS) * BLOCK;
  off_t at = next_random(random) % FILE_BLOCKS * BLOCK;
  if (!aligned) {
    length -= next_random(random) % BLOCK;
    at += next_random(random) % BLOCK;
  }
  uint64_t word = next_random(random);
  for (size_t i = 0; i < length / 8; i++) ((uint64_t *)buffer)[i] = word * (i + 1);
  if (pwrite(fd, buffer, length, at) != (ssize_t)length) fail("write");
}

static void change_file(const char *folder, uint64_t thread, char *buffer, uint64_t *random) {
  char path[512], other[512];
  snprintf(path, sizeof path, "%s/f%lu-%lu", folder, (unsigned long)thread, (unsigned long)(next_random(random) % FILES));
  uint64_t what = next_random(random) % 16;
  if (what == 0) {
    if (unlink(path) && errno != ENOENT) fail("unlink");
    return;
  }
  if (what == 1) {
    snprintf(other, sizeof other, "%s/f%lu-%lu", folder, (unsigned long)thread, (unsigned long)(next_random(random) % FILES));
    if (rename(path, other) && errno != ENOENT) fail("rename");
    return;
  }
  int fd = open(path, O_RDWR | O_CREAT | (what == 2 ? O_DIRECT : 0), 0600);
  if (fd < 0) fail(path);
  off_t at = next_random(random) % FILE_BLOCKS * BLOCK, length = (1 + next_random(random) % 32) * BLOCK;
  if (what == 2) write_some(fd, buffer, random, 1);
  else if (what == 3 && ftruncate(fd, at)) fail("truncate");
  else if (what == 4 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length)) fail("punch");
  else if (what == 5 && fallocate(fd, FALLOC_FL_ZERO_RANGE, at, length)) fail("zero");
  else if (what <= 7) through_map(fd, random);
  else write_some(fd, buffer, random, 0);
  uint64_t then = next_random(random) % 8;
  if (then == 0 && fsync(fd)) fail("fsync");
  if (then == 1 && fdatasync(fd)) fail("fdatasync");
  close(fd);
}

static void append_durably(int fd, uint64_t n) {
  if (write(fd, &n, sizeof n) != sizeof n || fdatasync(fd)) fail("log");
}

static void *worker(void *number) {
  uint64_t thread = (uint64_t)(long)number, random = seed * 0x9e3779b97f4a7c15ULL + thread + 1, records = 0;
  void *buffer;
  if (posix_memalign(&buffer, BLOCK, (WRITE_BLOCKS + 1) * BLOCK)) fail("memory");
  int logs[2] = {-1, -1};
  for (int i = 0; thread == 0 && i < 2; i++) {
    char path[512];
    snprintf(path, sizeof path, "%s/log", folders[i]);
    logs[i] = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (logs[i] < 0) fail(path);
  }
  for (;;) {
    pthread_barrier_wait(&barrier);
    while (running) {
      usleep(next_random(&random) % (2 * think_us + 1));
      if (thread == 0) {
        append_durably(logs[0], ++records);
        append_durably(logs[1], records);
      } else {
        change_file(folders[thread % 2], thread, buffer, &random);
      }
      __sync_fetch_and_add(&operations, 1);
    }
    pthread_barrier_wait(&barrier);
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  folders[0] = argv[1];
  folders[1] = argv[2];
  int threads = atoi(argv[3]);
  think_us = strtoull(argv[4], 0, 10);
  seed = strtoull(argv[5], 0, 10);
  pthread_barrier_init(&barrier, 0, threads + 1);
  for (long i = 0; i < threads; i++) {
    pthread_t thread;
    pthread_create(&thread, 0, worker, (void *)i);
  }
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    running = 1;
    pthread_barrier_wait(&barrier);
    usleep(atoi(line) * 1000);
    running = 0;
    pthread_barrier_wait(&barrier);
    printf("done %lu\n", (unsigned long)operations);
    fflush(stdout);
  }
  return 0;
}
