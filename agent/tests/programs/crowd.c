// Many threads of which some are busy.
//
//   crowd BUSY SLEEPERS   BUSY threads use CPU until SIGUSR1 comes and sleep
//                         from then on; SLEEPERS sleep from the beginning
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile sig_atomic_t is_over;

static void end(int signal) {
  (void)signal;
  is_over = 1;
}

__attribute__((noinline)) static unsigned crowd_work(unsigned seed, int depth) {
  if (depth > 0) return crowd_work(seed, depth - 1) + 1;
  for (int i = 0; i < 1000; i++) seed = seed * 31 + i;
  return seed;
}

static void *work(void *argument) {
  volatile unsigned sink = 0;
  while (!is_over) sink = crowd_work(sink, 60);
  for (;;) sleep(1000);
  return argument;
}

static void *sleep_long(void *argument) {
  for (;;) sleep(1000);
  return argument;
}

static void start(void *(*run)(void *), long count) {
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 * 1024);
  for (long number = 0; number < count; number++) {
    pthread_t thread;
    if (pthread_create(&thread, &small, run, NULL) != 0) exit(1);
  }
  pthread_attr_destroy(&small);
}

int main(int count, char **arguments) {
  if (count < 3) return 1;
  signal(SIGUSR1, end);
  start(sleep_long, atol(arguments[2]));
  start(work, atol(arguments[1]));
  puts("ready");
  fflush(stdout);
  for (;;) sleep(1000);
}
