// Chooses an instruction set, and holds the scratch memory of each thread. No torch.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "instruction_sets.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sasa {
namespace {

struct InstructionSet {
  const char* name;
  bool (*supported)();
  const Kernels& (*table)();
};

bool always() { return true; }

#if defined(__x86_64__)
bool has_f16c() {  // __builtin_cpu_supports does not know the name in every compiler
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool supports_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

bool supports_avx512() {
  return supports_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

// Best first.
const InstructionSet instruction_sets[] = {
#if defined(__x86_64__)
    {"avx512", supports_avx512, kernels_avx512},
    {"avx2", supports_avx2, kernels_avx2},
#elif defined(__aarch64__)
    {"neon", always, kernels_neon},
#endif
    {"portable", always, kernels_portable},
};

struct Choice {
  const Kernels* table = nullptr;
  char error[256] = "";
};

Choice choose() {
  Choice choice;
  const char* wanted = std::getenv("SASA_CPU");
  const bool any = wanted == nullptr || *wanted == '\0';
  for (const InstructionSet& set : instruction_sets) {
    if (!any && std::strcmp(wanted, set.name) != 0) continue;
    if (set.supported()) {
      choice.table = &set.table();
      return choice;
    }
    if (!any)
      std::snprintf(choice.error, sizeof choice.error, "SASA_CPU=%s: this CPU does not support %s", wanted, wanted);
  }
  if (choice.error[0] == '\0') {
    char names[64] = "";
    for (const InstructionSet& set : instruction_sets) {
      std::strncat(names, set.name, sizeof names - std::strlen(names) - 1);
      std::strncat(names, ", ", sizeof names - std::strlen(names) - 1);
    }
    std::snprintf(choice.error, sizeof choice.error, "SASA_CPU=%.64s is not an instruction set of this library (%soff)",
                  wanted, names);
  }
  choice.table = &kernels_portable();
  return choice;
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

constexpr size_t kAlignment = 64;
constexpr size_t kKept = size_t{32} << 20;  // larger blocks are freed at the thread's next smaller request

struct Scratch {
  void* data = nullptr;
  size_t size = 0;
  ~Scratch() { std::free(data); }
};

}  // namespace

const Kernels& kernels() { return *choice().table; }

const char* kernels_error() { return choice().error[0] == '\0' ? nullptr : choice().error; }

void* scratch(size_t bytes) {
  static thread_local Scratch mine;
  if (bytes <= mine.size && (mine.size <= kKept || bytes > kKept)) return mine.data;
  std::free(mine.data);
  mine.size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (mine.size == 0) mine.size = kAlignment;
  void* data = nullptr;
  if (posix_memalign(&data, kAlignment, mine.size) != 0) {
    // This may be a worker thread, where exceptions cannot be thrown.
    std::fprintf(stderr, "sasa: cannot allocate %zu bytes of scratch memory\n", mine.size);
    std::abort();
  }
  mine.data = data;
  return data;
}

}  // namespace sasa
