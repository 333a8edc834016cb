// Compares the kernels of each instruction set with naive loops in double: odd sizes, every storage type, layouts,
// paddings, results that start as NaN, tasks in any order. Needs no torch. Exits with 0 if all agree, else
// prints a sentence for each difference and exits with 1.
//
// -DSASA_TEST_SETS="SASA_TEST(avx2) SASA_TEST(portable)" names the sets that are linked in (`make test-kernels`: all).
#include "block.h"
#include "cpu/instruction_sets.h"
#include "local.h"
#include "norms.h"
#include "pointwise.h"

namespace {

using namespace sasa;

struct TestedSet {
  const char* name;
  const Kernels& (*table)();
};

#define SASA_TEST(set) {#set, SASA_JOIN(kernels_, set)},
const TestedSet tested_sets[] = {SASA_TEST_SETS};
#undef SASA_TEST

bool runs_here(const std::string& name) {
#if defined(__x86_64__)
  if (name == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return !name.empty();
}

int test(const TestedSet& set) {
  Judge judge;
  int number = 0;
  for (Storage storage : storages) {
    for (const LocalCase& c : local_cases)
      for (int repeat = 0; repeat < 3; ++repeat) test_local(set.table(), c, storage, number++, judge);
    for (const BlockCase& c : block_cases)
      for (int repeat = 0; repeat < 2; ++repeat) test_block(set.table(), c, storage, number++, judge);
    for (const AffineCase& c : affine_cases)
      for (int repeat = 0; repeat < 2; ++repeat) test_affine(set.table(), c, storage, number++, judge);
  }
  for (const NormCase& c : norm_cases)
    for (int repeat = 0; repeat < 4; ++repeat) test_norm(set.table(), c, number++, judge);
  for (const PointwiseCase& c : pointwise_cases)
    for (int repeat = 0; repeat < 2; ++repeat) test_pointwise(set.table(), c, number++, judge);
  for (Storage storage : {Storage::float16, Storage::bfloat16})
    for (Layout layout : {contiguous, channels_last}) test_halves(set.table(), storage, layout, judge);
  std::printf("%s: %d comparisons, %d failed; largest error", set.name, judge.compared, judge.failed);
  for (int i = 0; i < 4; ++i) std::printf("%s %s %.1e", i ? "," : "", storage_names[i], judge.largest_error[i]);
  std::printf("\n");
  return judge.failed;
}

}  // namespace

int main() {
  int passed = 0, failed = 0, skipped = 0;
  for (const TestedSet& set : tested_sets) {
    if (!runs_here(set.name)) {
      std::printf("%s: skipped, this CPU does not run it\n", set.name);
      ++skipped;
    } else {
      ++(test(set) == 0 ? passed : failed);
    }
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed == 0 ? 0 : 1;
}
