// Batch norm in training, shortcut and ReLU. Schemas, fakes and gradients: src/sasa/ops/norm_relu.py.
#include "operators.h"

namespace sasa {
namespace {

// Float32 maps that are dense in channels_last, as (pixels, channels).
void check_rows(const char* name, const Tensor& map, const Tensor& like) {
  const int64_t C = map.size(1), H = map.size(2), W = map.size(3);
  STD_TORCH_CHECK(map.dim() == 4 && map.is_cpu() && map.scalar_type() == ScalarType::Float && sizes(map) == sizes(like),
                  name, " does not fit the other arguments in device, dtype or shape");
  STD_TORCH_CHECK(map.stride(1) == 1 && map.stride(3) == C && map.stride(2) == C * W && map.stride(0) == C * W * H,
                  name, " must be dense and channels_last");
}

const float* floats(const Tensor& tensor) { return static_cast<const float*>(tensor.data_ptr()); }
float* floats_of(Tensor& tensor) { return static_cast<float*>(tensor.data_ptr()); }

}  // namespace

std::tuple<Tensor, Tensor, Tensor> norm_relu(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                             const MaybeTensor& residual, bool relu, double eps) {
  check_rows("x", x, x);
  if (residual) check_rows("residual", *residual, x);
  const int64_t C = x.size(1), pixels = x.numel() / C;
  const Parameter weights("weight", weight, x, {C}), biases("bias", bias, x, {C});
  using torch::headeronly::MemoryFormat;
  Tensor y = torch::stable::empty(sizes(x), ScalarType::Float, std::nullopt, x.device(), std::nullopt,
                                  MemoryFormat::ChannelsLast);
  Tensor mean = empty({C}, ScalarType::Float, x), variance = empty({C}, ScalarType::Float, x);
  Tensor parts = empty({norm_parts(pixels, C)}, ScalarType::Float, x);
  NormForward work = {};
  work.x = floats(x), work.residual = residual ? floats(*residual) : nullptr;
  work.weight = static_cast<const float*>(weights.data()), work.bias = static_cast<const float*>(biases.data());
  work.y = floats_of(y), work.mean = floats_of(mean), work.variance = floats_of(variance);
  work.parts = floats_of(parts);
  work.pixels = pixels, work.channels = C, work.eps = eps, work.relu = relu;
  kernels().norm_forward(work, parallel());
  return {y, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_relu_backward(const Tensor& grad, const Tensor& x, const MaybeTensor& y,
                                                              const Tensor& weight, const Tensor& bias,
                                                              const Tensor& mean, const Tensor& variance, bool relu,
                                                              double eps) {
  check_rows("x", x, x);
  check_rows("grad", grad, x);
  if (y) check_rows("y", *y, x);
  const int64_t C = x.size(1), pixels = x.numel() / C;
  const Parameter weights("weight", weight, x, {C}), biases("bias", bias, x, {C});
  const Parameter means("mean", mean, x, {C});
  const Parameter variances("variance", variance, x, {C});
  using torch::headeronly::MemoryFormat;
  auto map = [&] {
    return torch::stable::empty(sizes(x), ScalarType::Float, std::nullopt, x.device(), std::nullopt,
                                MemoryFormat::ChannelsLast);
  };
  Tensor grad_x = map(), grad_residual = y && relu ? map() : nothing(x);
  Tensor grad_weight = empty({C}, ScalarType::Float, x), grad_bias = empty({C}, ScalarType::Float, x);
  Tensor parts = empty({norm_parts(pixels, C)}, ScalarType::Float, x);
  NormBackward work = {};
  work.grad = floats(grad), work.x = floats(x), work.y = y ? floats(*y) : nullptr;
  work.weight = static_cast<const float*>(weights.data()), work.bias = static_cast<const float*>(biases.data());
  work.mean = static_cast<const float*>(means.data());
  work.variance = static_cast<const float*>(variances.data());
  work.grad_x = floats_of(grad_x), work.grad_residual = y && relu ? floats_of(grad_residual) : nullptr;
  work.grad_weight = floats_of(grad_weight), work.grad_bias = floats_of(grad_bias), work.parts = floats_of(parts);
  work.pixels = pixels, work.channels = C, work.eps = eps, work.relu = relu;
  kernels().norm_backward(work, parallel());
  return {grad_x, grad_weight, grad_bias, grad_residual};
}

}  // namespace sasa
