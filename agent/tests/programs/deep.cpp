// Burns CPU in recursion, a callback of the C library, copies and the C++
// library, on the main thread and one more.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

volatile unsigned sink;

__attribute__((noinline)) unsigned leaf(unsigned n) {
  unsigned sum = n;
  for (unsigned i = 0; i < 20000; i++) sum = sum * 31 + i;
  return sum;
}

__attribute__((noinline)) unsigned recurse(unsigned depth) {
  if (depth == 0) return leaf(depth);
  char text[40];
  for (unsigned i = 0; i < sizeof text; i++) text[i] = static_cast<char>(depth + i);
  unsigned below = recurse(depth - 1);
  sink = static_cast<unsigned>(text[below % sizeof text]);
  return below + 1;
}

extern "C" __attribute__((noinline)) int compare(const void *a, const void *b) {
  int x = *static_cast<const int *>(a), y = *static_cast<const int *>(b);
  for (int i = 0; i < 20; i++) sink = static_cast<unsigned>(x + i);
  return (x > y) - (x < y);
}

__attribute__((noinline)) void sort_with_c() {
  std::vector<int> numbers(20000);
  for (auto &n : numbers) n = std::rand();
  std::qsort(numbers.data(), numbers.size(), sizeof(int), compare);
}

__attribute__((noinline)) void sort_copies() {
  static thread_local std::vector<int> numbers(100000), copy(100000);
  for (int round = 0; round < 2; round++) {
    for (auto &n : numbers) n = static_cast<int>(sink = sink * 1103515245 + 12345);
    for (int times = 0; times < 20; times++) {
      std::memcpy(copy.data(), numbers.data(), numbers.size() * sizeof(int));
      sink = static_cast<unsigned>(copy[sink % copy.size()]);
    }
    std::sort(copy.begin(), copy.begin() + 5000);
  }
}

__attribute__((noinline)) void fill_map() {
  std::map<std::string, int> words;
  for (int i = 0; i < 5000; i++) words["a rather long key number " + std::to_string(std::rand())] = i;
  sink = static_cast<unsigned>(words.size());
}

void work() {
  for (;;) {
    for (int i = 0; i < 400; i++) sink = recurse(30);
    sort_with_c();
    sort_copies();
    fill_map();
  }
}

int main() {
  std::thread other(work);
  work();
}
