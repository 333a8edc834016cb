// The peak rate of multiply-adds of a core, which benchmarks compare the kernels with.
#pragma once
#include "vec.h"

namespace {

// Do `rounds` rounds of independent fused multiply-adds on full registers; returns the number of scalar multiply-adds.
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
