// Batch norm, shortcut and ReLU, of training and (in place) of inference. Schemas, fakes and gradients:
// src/sasa/ops/norm_relu.py.
#include "operators.h"

namespace sasa {
namespace {

Tensor empty_rows(const Tensor& like) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty(sizes(like), ScalarType::Float, std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

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

std::tuple<Tensor, Tensor, Tensor> norm_relu(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                             const MaybeTensor& residual, bool relu, double eps) {
  check_rows("x", x, sizes(x));
  if (residual) check_rows("residual", *residual, sizes(x));
  const int64_t C = x.size(1), pixels = x.numel() / C;
  const Parameter weights("weight", weight, x, {C}), biases("bias", bias, x, {C});
  Tensor y = empty_rows(x);
  Tensor mean = empty({C}, ScalarType::Float, x), variance = empty({C}, ScalarType::Float, x);
  Tensor parts = empty({norm_parts(pixels, C)}, ScalarType::Float, x);
  NormForward call = {};
  call.x = floats(x), call.residual = floats(residual);
  call.weight = floats(weights), call.bias = floats(biases);
  call.y = mutable_floats(y), call.mean = mutable_floats(mean), call.variance = mutable_floats(variance);
  call.parts = mutable_floats(parts);
  call.pixels = pixels, call.channels = C, call.eps = eps, call.relu = relu;
  kernels().norm_forward(call, parallel());
  return {y, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_relu_backward(const Tensor& grad, const Tensor& x, const MaybeTensor& y,
                                                              const Tensor& weight, const Tensor& bias,
                                                              const Tensor& mean, const Tensor& variance, bool relu,
                                                              double eps) {
  check_rows("x", x, sizes(x));
  check_rows("grad", grad, sizes(x));
  if (y) check_rows("y", *y, sizes(x));
  const int64_t C = x.size(1), pixels = x.numel() / C;
  const Parameter weights("weight", weight, x, {C}), biases("bias", bias, x, {C});
  const Parameter means("mean", mean, x, {C}), variances("variance", variance, x, {C});
  const bool residual_gradient = y && relu;  // without a ReLU it is `grad`
  Tensor grad_x = empty_rows(x), grad_residual = residual_gradient ? empty_rows(x) : nothing(x);
  Tensor grad_weight = empty({C}, ScalarType::Float, x), grad_bias = empty({C}, ScalarType::Float, x);
  Tensor parts = empty({norm_parts(pixels, C)}, ScalarType::Float, x);
  NormBackward call = {};
  call.grad = floats(grad), call.x = floats(x), call.y = floats(y);
  call.weight = floats(weights), call.bias = floats(biases);
  call.mean = floats(means), call.variance = floats(variances);
  call.grad_x = mutable_floats(grad_x);
  call.grad_residual = residual_gradient ? mutable_floats(grad_residual) : nullptr;
  call.grad_weight = mutable_floats(grad_weight), call.grad_bias = mutable_floats(grad_bias);
  call.parts = mutable_floats(parts);
  call.pixels = pixels, call.channels = C, call.eps = eps, call.relu = relu;
  kernels().norm_backward(call, parallel());
  return {grad_x, grad_weight, grad_bias, grad_residual};
}

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
