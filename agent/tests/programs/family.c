// A parent that sleeps while its child burns CPU. The child begins when the
// parent is sent SIGUSR1, and goes on when the parent is gone.
#include <signal.h>
#include <unistd.h>

volatile unsigned sink;

__attribute__((noinline)) void child_work(void) {
  for (;;) sink = sink * 31 + 1;
}

static void begin(int signal_number) { (void)signal_number; }

int main(void) {
  signal(SIGUSR1, begin);
  write(1, "ready\n", 6);
  pause();
  if (fork() == 0) {
    child_work();
  }
  for (;;) pause();
}
