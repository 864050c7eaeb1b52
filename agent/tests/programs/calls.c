// Burns CPU within system calls.
#include <fcntl.h>
#include <unistd.h>

static char buffer[1 << 20];

__attribute__((noinline)) long read_zeros(int zeros) {
  return read(zeros, buffer, sizeof buffer);
}

int main(void) {
  int zeros = open("/dev/zero", O_RDONLY);
  for (;;) {
    if (read_zeros(zeros) < 0) return 1;
  }
}
