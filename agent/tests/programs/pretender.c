/* Claims to be CPython 3.11 and shows an interpreter that makes no sense, another
   one at each moment. */
#include <stdint.h>
#include <stdio.h>

unsigned long Py_Version = 0x030b07f0;
uintptr_t _PyRuntime[4096];
uintptr_t memory[4096];

int Py_Main(int argc, char **argv) { return argc + (argv != 0); }

int main(void) {
    uint64_t state = 88172645463325252u;
    int said = 0;
    for (;;) {
        for (int i = 0; i < 4096; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            /* Small numbers, nonsense, and pointers into ourselves. */
            uintptr_t inside = (uintptr_t)&memory[state % 4096];
            memory[i] = state & 64 ? inside : state & 128 ? state : state % 5000;
            _PyRuntime[i] = state & 256 ? (uintptr_t)&memory[i] : inside;
        }
        if (!said) {
            said = 1;
            puts("ready");
            fflush(stdout);
        }
    }
}
