// A parent that sleeps while its child burns CPU. The child begins when the
// parent is sent SIGUSR1, and goes on when the parent is gone.
#include <signal.h>
#include <unistd.h>

volatile unsigned sink;

__attribute__((noinline)) void child_work(void) {
  for (;;) sink = sink * 31 + 1;
}

int main(void) {
  // Blocked from before it can be sent, so that none comes too early.
  sigset_t begin;
  int signal_number;
  sigemptyset(&begin);
  sigaddset(&begin, SIGUSR1);
  sigprocmask(SIG_BLOCK, &begin, 0);
  write(1, "ready\n", 6);
  sigwait(&begin, &signal_number);
  if (fork() == 0) {
    child_work();
  }
  for (;;) pause();
}
