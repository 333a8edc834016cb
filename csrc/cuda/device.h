// What the CUDA kernels are written with. A kernel includes this, kernels.h and its siblings, and nothing else: NVRTC
// has no headers on a user's machine. device_cuda.h defines the primitives as inline PTX (sm_80 and later);
// tests/cuda/emulation/emulate.h defines the same ones in plain C++, so that every kernel runs, is checked and is
// counted on a CPU.
//
// Conventions
//   - All shared memory is dynamic. It is addressed by byte offsets from its start, through load_shared, store_shared,
//     load_matrix and copy_async; global memory that should be checked and counted through load_global, store_global.
//   - Warp operations (shuffle, load_matrix, multiply, transpose, any, __syncwarp) are met by all 32 lanes.
//   - Lane l of a fragment of 8 x 8 elements holds row l / 4, columns 2 * (l % 4) and 2 * (l % 4) + 1.
//
//   - NVRTC compiles with -std=c++17 -default-device: helpers without __device__, such as LocalLayout's, are for both.
//   - A kernel is SASA_KERNEL(threads[, resident blocks]) void name(SASA_ARGUMENT Call call, ...).
//
// The primitives, in namespace sasa (T: bfloat16 or float16 where it says "16-bit"):
//   threadIdx, blockIdx, blockDim, gridDim, __syncthreads(), __syncwarp()
//   infinity(), quiet_nan(), exp2_approx(x), log2_approx(x), reciprocal_approx(x),
//   fmaxf, fmaf, fabsf, expf, logf, exp, log, fmax, fma
//   to_float(x), from_float<T>(x)              between storage and float, rounding to nearest even
//   pack<T>(low, high), low<T>(p), high<T>(p)  two 16-bit elements in an unsigned
//   load_shared<V>(offset), store_shared(offset, value)
//   load_global(pointer), store_global(pointer, value)
//   copy_async(offset, source, inside)         16 bytes to shared memory; zeros where not `inside`
//   commit_copies(), wait_copies<N>()          a group of copies; until at most N of this thread's groups are in flight
//   load_matrix<COUNT>(r, offset), load_matrix_transposed<COUNT>(r, offset)
//                                              ldmatrix: lane l gives the address of row l % 8 of matrix l / 8
//   multiply<T>(c, a0, a1, b)                  c += A (16 x 8) . B (8 x 8), float sums
//   multiply<T>(c, a, b0, b1)                  c += A (16 x 16) . B (16 x 8); a[4]
//   transpose(x)                               movmatrix: of an 8 x 8 fragment
//   shuffle(x, lane), shuffle_xor(x, mask), any(predicate)
#pragma once

namespace sasa {

struct bfloat16 {
  unsigned short bits;
};
struct float16 {
  unsigned short bits;
};

// N values that move at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

}  // namespace sasa

#ifdef SASA_EMULATE
#include "emulate.h"
#else
#include "device_cuda.h"
#endif

namespace sasa {

// What sums of a storage type are made in.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

SASA_DEVICE float to_float(float x) { return x; }
SASA_DEVICE double to_float(double x) { return x; }

// One, in both halves.
template <class T>
SASA_DEVICE constexpr unsigned ones();
template <>
SASA_DEVICE constexpr unsigned ones<bfloat16>() {
  return 0x3F803F80u;
}
template <>
SASA_DEVICE constexpr unsigned ones<float16>() {
  return 0x3C003C00u;
}

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

}  // namespace sasa
