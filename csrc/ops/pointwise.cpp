// The gradient of the weights of a 1 x 1 convolution. Schema: src/sasa/ops/pointwise.py.
#include "operators.h"

namespace sasa {

Tensor pointwise_gradient(const Tensor& grad, const Tensor& x) {
  check_rows("x", x, sizes(x));
  const int64_t O = grad.dim() == 4 ? grad.size(1) : 0, I = x.size(1), pixels = x.numel() / (I > 0 ? I : 1);
  check_rows("grad", grad, {x.size(0), O, x.size(2), x.size(3)});
  Tensor total = empty({O, I, 1, 1}, ScalarType::Float, x);
  if (pixels == 0) return torch::stable::zero_(total);
  const int64_t number = pointwise_parts(pixels);
  Tensor parts = number == 1 ? total : empty({number, O, I}, ScalarType::Float, x);
  kernels().pointwise_gradient({floats(grad), floats(x), mutable_floats(parts), pixels, O, I}, parallel());
  if (number > 1) add_parts(parts, total);
  return total;
}

}  // namespace sasa
