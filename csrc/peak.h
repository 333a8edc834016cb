// The most multiply-adds a core can do: the ceiling that benchmarks hold the kernels against.
#pragma once
#include "vec.h"

namespace {

// `rounds` rounds of independent fused multiply-adds on full registers; how many single ones that were.
double multiply_adds(int64_t rounds) {
  constexpr int L = kLanes<float>, N = kRegisters >= 32 ? 24 : 12;
  Vec<float, L> acc[N], a = splat<float, L>(1.0f), b = splat<float, L>(1e-9f);
  for (int i = 0; i < N; ++i) acc[i] = splat<float, L>(static_cast<float>(i));
  for (int64_t round = 0; round < rounds; ++round) {
    keep(a);
    keep(b);
#pragma GCC unroll 24
    for (int i = 0; i < N; ++i) acc[i] += a * b;
#pragma GCC unroll 24
    for (int i = 0; i < N; ++i) keep(acc[i]);
  }
  return static_cast<double>(rounds) * N * L;
}

}  // namespace
