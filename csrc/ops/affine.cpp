// Batch norm of inference, shortcut and ReLU, in place. Schema: src/sasa/ops/norm_relu.py.
#include "operators.h"

namespace sasa {
namespace {

// Whether the elements of both are in memory in the same order.
bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t axis = 0; axis < 4; ++axis)
    if (a.stride(axis) != b.stride(axis)) return false;
  return true;
}

Tensor constant(int64_t count, double value, const Tensor& like) {
  const ScalarType type = compute_type(like);
  Tensor tensor = empty({count}, type, like);
  for (int64_t i = 0; i < count; ++i) {
    if (type == ScalarType::Double) {
      static_cast<double*>(tensor.data_ptr())[i] = value;
    } else {
      static_cast<float*>(tensor.data_ptr())[i] = static_cast<float>(value);
    }
  }
  return tensor;
}

}  // namespace

void affine_(Tensor x, const MaybeTensor& gain, const MaybeTensor& shift, const MaybeTensor& residual, bool relu) {
  STD_TORCH_CHECK(x.dim() == 4, "x must have 4 dimensions");
  const int64_t B = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3);
  const bool channels_last = x.stride(1) == 1 && x.stride(3) == C && x.stride(2) == C * W && x.stride(0) == C * W * H;
  STD_TORCH_CHECK(channels_last || x.is_contiguous(), "x must be dense, contiguous or channels_last");
  if (residual) {
    check_map("residual", *residual, x, sizes(x));
    STD_TORCH_CHECK(same_layout(x, *residual), "residual must have the layout of x");
  }
  if (x.numel() == 0) return;
  const Parameter gains("gain", gain ? gain : MaybeTensor(constant(C, 1, x)), x, {C});
  const Parameter shifts("shift", shift ? shift : MaybeTensor(constant(C, 0, x)), x, {C});
  const bool rows = channels_last || (H == 1 && W == 1);
  kernels().affine({x.data_ptr(), residual ? residual->data_ptr() : nullptr, gains.data(), shifts.data(),
                    rows ? B * H * W : B, C, rows ? 1 : H * W, relu, storage(x)},
                   parallel());
}

}  // namespace sasa
