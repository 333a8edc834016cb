// Adds up parts of gradients or statistics, always in the same order, in double. -DSASA_DOUBLE=1: of double, else
// float.
#include "device.h"
#include "workspaces.h"

namespace sasa {

#if SASA_DOUBLE
using Part = double;
#else
using Part = float;
#endif

}  // namespace sasa

// A block adds up 32 elements: warp w takes every 32nd part from w on, then one warp adds the 32 sums of each element.
SASA_KERNEL(1024) void sasa_sum_parts(SASA_ARGUMENT sasa::SumParts call) {
  using namespace sasa;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  double sum = 0;
#pragma unroll 4
  for (int64_t part = warp; part < call.number; part += 32) {
    if (i < call.count) sum += load_global(static_cast<const Part*>(call.parts) + part * call.count + i);
  }
  store_shared(threadIdx.x * 8, sum);
  __syncthreads();
  if (warp != 0) return;
  double total = 0;
  for (int w = 0; w < 32; w++) total += load_shared<double>((w * 32 + lane) * 8);
  if (i < call.count) store_global(static_cast<Part*>(call.total) + i, static_cast<Part>(total));
}
