// What kernels take besides the structs of kernels.h: memory that one launch leaves for the next. For host and device.
#pragma once
#include "kernels.h"

namespace sasa {

struct PlainWorkspace {
  void* delta;  // (B, N, H, W), compute type: sum p dp of each query
  void* rows;   // (parts, N, K, D / 2), compute type: the tables' gradients, to be added up; nullptr without tables
  void* columns;
};

// total[i] = sum over parts of parts[part * count + i].
struct SumParts {
  const void* parts;
  void* total;
  int64_t number, count;
};

}  // namespace sasa
