// Kernels that do what a kernel must not: the emulator has to say so. SASA_CASE chooses; 0 is right.
#pragma once
#include "device.h"

namespace sasa {

struct Mistake {
  const float* in;
  float* out;
  int count;
};

SASA_KERNEL(64) void sasa_mistakes(SASA_ARGUMENT Mistake call) {
  const int thread = threadIdx.x, limit = SASA_CASE == 1 ? call.count + 1 : call.count;
  store_shared(thread * 4, thread < limit ? load_global(call.in + thread) : 0.f);
  if (SASA_CASE != 2) __syncthreads();
  float x = load_shared<float>((63 - thread) * 4);
  if (SASA_CASE == 3)
    __syncwarp();
  else
    __syncthreads();
  if (SASA_CASE == 3) store_shared(thread * 4, x);
  if (SASA_CASE == 4) x += load_shared<float>(256 + thread * 4);
  if (SASA_CASE != 5 || thread % 32 < 16) x += shuffle_xor(x, 1);
  if (SASA_CASE == 6) {
    copy_async(0, call.in, true);
    commit_copies();
    x = load_shared<float>(0);
    wait_copies<0>();
  }
  if (SASA_CASE == 7 && thread < 32) __syncthreads();
  if (SASA_CASE == 8) store_global(const_cast<float*>(call.in), x);
  if (thread < call.count) store_global(call.out + thread, x);
}

}  // namespace sasa
