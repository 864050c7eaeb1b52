// Threads whose names say what they do.
//
//   threads steady       hot-0 and hot-1 use seven tenths of the CPU time,
//                        cold-0 and cold-1 the rest, one after the other; the
//                        others wait
//   threads churn        brief-N threads that live for 5 ms of CPU time each
//   threads many COUNT   a thread that is busy, and COUNT that sleep
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WORKERS 4

static sem_t turns[WORKERS];
static int never[2];

static double used(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

static void burn(double seconds) {
  double until = used() + seconds;
  while (used() < until) {
  }
}

static void *work(void *argument) {
  long own = (long)argument;
  for (;;) {
    sem_wait(&turns[own]);
    burn(own < 2 ? 0.007 : 0.003);
    sem_post(&turns[(own + 1) % WORKERS]);
  }
  return argument;
}

static void *sleep_long(void *argument) {
  for (;;) sleep(1000);
  return argument;
}

static void *read_pipe(void *argument) {
  char byte;
  if (read(never[0], &byte, 1) < 0) exit(1);
  return argument;
}

static void *poll_pipe(void *argument) {
  struct pollfd file = {.fd = never[0], .events = POLLIN};
  poll(&file, 1, -1);
  return argument;
}

static void *brief(void *argument) {
  burn(0.005);
  return argument;
}

static void *busy(void *argument) {
  for (;;) burn(1);
  return argument;
}

static pthread_t start(const char *name, void *(*run)(void *), long argument) {
  pthread_t thread;
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 * 1024);
  if (pthread_create(&thread, &small, run, (void *)argument) != 0) exit(1);
  pthread_attr_destroy(&small);
  pthread_setname_np(thread, name);
  return thread;
}

static void ready(void) {
  puts("ready");
  fflush(stdout);
}

int main(int count, char **arguments) {
  char name[16];
  const char *mode = count > 1 ? arguments[1] : "steady";
  if (pipe(never) != 0) return 1;
  if (strcmp(mode, "churn") == 0) {
    ready();
    for (long number = 0;; number++) {
      snprintf(name, sizeof name, "brief-%ld", number % 100000);
      pthread_join(start(name, brief, 0), NULL);
    }
  }
  if (strcmp(mode, "many") == 0) {
    long threads = count > 2 ? atol(arguments[2]) : 1000;
    start("busy", busy, 0);
    for (long number = 0; number < threads; number++) {
      snprintf(name, sizeof name, "sleeper-%ld", number % 100000);
      start(name, sleep_long, 0);
    }
    ready();
    sleep_long(NULL);
  }
  for (long number = 0; number < WORKERS; number++) sem_init(&turns[number], 0, 0);
  start("hot-0", work, 0);
  start("hot-1", work, 1);
  start("cold-0", work, 2);
  start("cold-1", work, 3);
  start("sleeper-0", sleep_long, 0);
  start("sleeper-1", sleep_long, 0);
  start("reader", read_pipe, 0);
  start("poller", poll_pipe, 0);
  sem_post(&turns[0]);
  ready();
  sleep_long(NULL);
}
