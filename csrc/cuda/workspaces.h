// What kernels take besides the structs of kernels.h: memory that one launch leaves for the next. For host and device.
#pragma once
#include "kernels.h"

#if defined(__CUDACC__) && !defined(SASA_EMULATE)
#define SASA_BOTH static __host__ __device__ inline
#else
#define SASA_BOTH static inline
#endif

namespace sasa {

struct PlainWorkspace {
  void* delta;  // (B, N, H, W), compute type: sum p dp of each query
  void* rows;   // (parts, N, K, D / 2), compute type: the tables' gradients, to be added up; nullptr without tables
  void* columns;
};

struct BlockWorkspace {
  // Of each head, compute type: M = W_Q^T W_K (C, C), and A = W_Q^T r, of rows and of columns (2 * block - 1, C) each.
  void* folded;
  void* sums;  // (parts, 2, N * E) double: of y and y * y, to be added up
  // Gradients of each head, compute type, to be added up: (parts, N, C * (C + 2 * (2 * block - 1) + P * E)), the last
  // for w_value where it is given. `total` is their sum.
  void* grads;
  void* total;
};

// Elements of one head in `folded`, and in `grads`.
SASA_BOTH int64_t folded_elements(const BlockShape& shape) {
  return shape.channels * (shape.channels + 2 * (2 * shape.block - 1));
}
SASA_BOTH int64_t gradient_elements(const BlockShape& shape, bool values) {
  const int64_t of_values = values ? shape.block * shape.block * shape.value_dim * shape.channels : 0;
  return folded_elements(shape) + of_values;
}

// total[i] = sum over parts of parts[part * count + i].
struct SumParts {
  const void* parts;
  void* total;
  int64_t number, count;
};

}  // namespace sasa
