// The tables' gradients of each image from the parts of its chunks, added in their order.
#pragma once
#include "device.h"
#include "kernels.h"
#include "local_tiling.h"

namespace sasa {

// Block x: head x % heads of image x / heads.
SASA_KERNEL(128)
void sasa_local_sums(SASA_ARGUMENT LocalBackward call, SASA_ARGUMENT LocalTiling tiling, SASA_ARGUMENT LocalWork work) {
  const int64_t heads = call.shape.heads, image = blockIdx.x / heads, head = blockIdx.x % heads;
  const int half = call.shape.window * call.shape.head_dim / 2;
  for (int i = threadIdx.x; i < 2 * half; i += 128) {
    float sum = 0;
    for (int chunk = 0; chunk < tiling.chunks; chunk++) {
      sum += load_global(work.parts + ((image * tiling.chunks + chunk) * heads + head) * 2 * half + i);
    }
    float* to = static_cast<float*>(i < half ? call.grad_row : call.grad_col);
    store_global(to + (image * heads + head) * half + i % half, sum);
  }
}

}  // namespace sasa
