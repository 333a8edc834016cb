// Conversions between tensors and the raw pointers of the kernels, for the other files, on the LibTorch stable ABI.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "kernels.h"

#define SASA_HIDDEN __attribute__((visibility("hidden")))  // as torch's own types

namespace sasa {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

inline Sizes sizes(const Tensor& tensor) { return Sizes(tensor.sizes().begin(), tensor.sizes().end()); }

inline Storage storage(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Storage::float32;
    case ScalarType::Double: return Storage::float64;
    case ScalarType::BFloat16: return Storage::bfloat16;
    case ScalarType::Half: return Storage::float16;
    default: STD_TORCH_CHECK(false, "the kernels of sasa need floating point tensors"); std::abort();
  }
}

inline ScalarType compute_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// An uninitialised tensor on the device of `like`.
inline Tensor empty(const Sizes& size, ScalarType type, const Tensor& like) {
  return torch::stable::empty(size, type, std::nullopt, like.device());
}

inline Tensor nothing(const Tensor& like) { return empty({0}, like.scalar_type(), like); }

// An uninitialised map, dense; channels_last if `like` is, or is a slice of the channels of such a map. The same as
// `empty_map` of ops/precision.py.
inline Tensor empty_map(const Tensor& like, int64_t channels, int64_t height, int64_t width, ScalarType type) {
  const bool channels_last = like.size(1) > 1 && like.stride(1) == 1 && !like.is_contiguous();
  using torch::headeronly::MemoryFormat;
  const MemoryFormat format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const Sizes size = {like.size(0), channels, height, width};
  return torch::stable::empty(size, type, std::nullopt, like.device(), std::nullopt, format);
}

inline Tensor empty_map(const Tensor& like, int64_t channels) {
  return empty_map(like, channels, like.size(2), like.size(3), like.scalar_type());
}

// The map of a tensor, from `channel` on.
inline Map map_of(const Tensor& tensor, int64_t channel = 0) {
  const int64_t* s = tensor.strides().data();
  char* data = static_cast<char*>(tensor.data_ptr());
  if (channel > 0) data += channel * s[1] * static_cast<int64_t>(tensor.element_size());
  return {data, {s[0], s[1], s[2], s[3]}};
}

inline Map map_of(const MaybeTensor& tensor) { return tensor ? map_of(*tensor) : Map{nullptr, {0, 0, 0, 0}}; }

// A map must have the device and dtype of `like`, and be (B, channels, H, W).
inline void check_map(const char* name, const Tensor& tensor, const Tensor& like, const Sizes& expected) {
  const bool fits = tensor.scalar_type() == like.scalar_type() && sizes(tensor) == expected;
  STD_TORCH_CHECK(fits && tensor.device() == like.device(), name,
                  " does not fit the other arguments in device, dtype or shape");
}

// Some kernels take float32 maps that are dense in channels_last, as (pixels, channels).
inline void check_rows(const char* name, const Tensor& map, const Sizes& expected) {
  STD_TORCH_CHECK(map.dim() == 4 && map.is_cpu() && map.scalar_type() == ScalarType::Float && sizes(map) == expected,
                  name, " does not fit the other arguments in device, dtype or shape");
  const int64_t C = map.size(1), H = map.size(2), W = map.size(3);
  const int64_t rows[] = {C * W * H, 1, C * W, C};
  bool dense = true;  // the stride of an axis of one is arbitrary
  for (int64_t axis = 0; axis < 4; ++axis) dense = dense && (map.size(axis) == 1 || map.stride(axis) == rows[axis]);
  STD_TORCH_CHECK(dense, name, " must be dense and channels_last");
}

// Weights or embeddings as the kernels need them: on the device of `like`, contiguous, in its compute type.
class SASA_HIDDEN Parameter {
 public:
  Parameter(const char* name, const MaybeTensor& given, const Tensor& like, const Sizes& expected)
      : Parameter(name, given, like, expected, compute_type(like)) {}
  Parameter(const char* name, const MaybeTensor& given, const Tensor& like, const Sizes& expected, ScalarType type) {
    if (!given) return;
    STD_TORCH_CHECK(given->device() == like.device() && sizes(*given) == expected, name,
                    " does not fit the other arguments in device or shape");
    tensor_ = given->scalar_type() == type ? *given : torch::stable::to(*given, type);
    if (!tensor_->is_contiguous()) tensor_ = torch::stable::contiguous(*tensor_);
  }
  const void* data() const { return tensor_ ? tensor_->data_ptr() : nullptr; }

 private:
  MaybeTensor tensor_;
};

inline const float* floats(const Tensor& tensor) { return static_cast<const float*>(tensor.data_ptr()); }
inline const float* floats(const MaybeTensor& tensor) { return tensor ? floats(*tensor) : nullptr; }
inline const float* floats(const Parameter& parameter) { return static_cast<const float*>(parameter.data()); }
inline float* mutable_floats(Tensor& tensor) { return static_cast<float*>(tensor.data_ptr()); }

// The sum of `parts` over its first axis, in a fixed order (run.cpp).
void add_parts(const Tensor& parts, Tensor& total);

// The gradient of a parameter. The kernel writes one gradient for each part of its work (an image, or a strip of one),
// and they are added in the order of the parts, so that the result does not depend on the number of threads.
class SASA_HIDDEN ParameterGradient {
 public:
  ParameterGradient(const MaybeTensor& parameter, const Tensor& like, int64_t number)
      : parameter_(parameter), like_(like), type_(compute_type(like)), number_(number) {
    if (!parameter) return;
    Sizes size = sizes(*parameter);
    if (number != 1) size.insert(size.begin(), number);
    parts_ = empty(size, type_, like);
  }

  void* data() const { return parts_ ? parts_->data_ptr() : nullptr; }

  Tensor total() const {
    if (!parameter_) return nothing(like_);
    if (number_ == 1) return in_dtype_of_parameter(*parts_);
    Tensor sum = empty(sizes(*parameter_), type_, like_);
    add_parts(*parts_, sum);
    return in_dtype_of_parameter(sum);
  }

  // For calls with empty outputs, where the kernel does not run.
  static Tensor zero(const MaybeTensor& parameter, const Tensor& like) {
    if (!parameter) return nothing(like);
    Tensor gradient = empty(sizes(*parameter), parameter->scalar_type(), like);
    return torch::stable::zero_(gradient);
  }

 private:
  Tensor in_dtype_of_parameter(const Tensor& sum) const {
    return parameter_->scalar_type() == type_ ? sum : torch::stable::to(sum, parameter_->scalar_type());
  }

  MaybeTensor parameter_, parts_;
  Tensor like_;
  ScalarType type_;
  int64_t number_;
};

// The threads of torch (run.cpp).
Parallel parallel();

}  // namespace sasa
