// Burns CPU for 300 ms and ends.
#include <time.h>

volatile unsigned sink;

__attribute__((noinline)) void last_work(void) {
  for (unsigned i = 0; i < 100000; i++) sink = sink * 31 + i;
}

int main(void) {
  while (clock() < 3 * CLOCKS_PER_SEC / 10) last_work();
}
