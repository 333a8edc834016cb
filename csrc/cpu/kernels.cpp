// The table of kernels of one instruction set: compiled once per set, with its flags and -DSASA_ISA=name.
#include "kernels.h"

#include "affine.h"
#include "block_backward.h"
#include "block_forward.h"
#include "instruction_sets.h"
#include "norm.h"
#include "pointwise.h"
#include "small_backward.h"
#include "small_forward.h"

namespace {

// Eq. 3 on maps of any size: the kernels for small maps where they are faster, else those for larger ones.
void local_forward(const LocalForward& call, const sasa::Parallel& threads) {
  with_compute_type(call.shape.storage, [&](auto number) {
    using T = decltype(number);
    const auto fallback = [&](int64_t image, int64_t head) {
      LocalForwardTask<T, 0>(call, 1).run(image, head, 0, call.shape.height);
    };
    if (!run_small<T, SmallForward>(call, threads, fallback)) local_forward_as<T>(call, threads);
  });
}

void local_backward(const LocalBackward& call, const sasa::Parallel& threads) {
  with_compute_type(call.shape.storage, [&](auto number) {
    using T = decltype(number);
    const auto fallback = [&](int64_t image, int64_t head) { LocalBackwardTask<T, 0>(call).run(image, head); };
    if (!run_small<T, SmallBackward>(call, threads, fallback)) local_backward_as<T>(call, threads);
  });
}

// The peak rate of a core, which benchmarks compare the kernels with: does `rounds` rounds of independent fused
// multiply-adds on full registers, and returns the number of scalar multiply-adds.
double multiply_adds(int64_t rounds) {
  constexpr int L = kLanes<float>, N = kRegisters >= 32 ? 24 : 12;
  Vec<float, L> acc[N], a = splat<float, L>(1.0f), b = splat<float, L>(1e-9f);
#pragma GCC unroll 24
  for (int i = 0; i < N; ++i) acc[i] = splat<float, L>(static_cast<float>(i));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < N; ++i) {
      keep_in_register(a);  // else the compiler would multiply once and add many times
      acc[i] += a * b;
      keep_in_register(acc[i]);
    }
  }
  float used = 0;  // else there would be nothing to compute
#pragma GCC unroll 24
  for (int i = 0; i < N; ++i) used += acc[i][0];
  volatile float sink = used;
  (void)sink;
  return static_cast<double>(rounds) * N * L;
}

}  // namespace

namespace sasa {

const Kernels& SASA_TABLE() {
  static const Kernels table{SASA_ISA_NAME, local_forward, local_backward, block_forward,      block_backward,
                             affine,        norm_forward,  norm_backward,  pointwise_gradient, multiply_adds};
  return table;
}

}  // namespace sasa
