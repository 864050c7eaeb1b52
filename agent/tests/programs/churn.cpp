// Starts one short thread after another: each burns CPU for about 20 ms.
#include <ctime>
#include <thread>

volatile unsigned sink;

extern "C" __attribute__((noinline)) void short_work() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  double until = time.tv_sec + time.tv_nsec / 1e9 + 0.02;
  for (;;) {
    for (unsigned i = 0; i < 20000; i++) sink = sink * 31 + i;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    if (time.tv_sec + time.tv_nsec / 1e9 > until) return;
  }
}

int main() {
  for (;;) {
    std::thread one(short_work);
    one.join();
  }
}
