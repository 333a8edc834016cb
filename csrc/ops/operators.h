// The operators that register.cpp registers with torch. Each file implements one family. Arguments and results are
// those of the schemas in src/sasa/ops.
#pragma once
#include <string>
#include <tuple>

#include "tensors.h"

namespace sasa {

// local_attention.cpp
std::tuple<Tensor, Tensor> local_attention(const Tensor& query, const MaybeTensor& key, const Tensor& value,
                                           const MaybeTensor& rel_row, const MaybeTensor& rel_col, int64_t kernel_size,
                                           int64_t num_heads, const std::string& padding, double scale);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> local_attention_backward(
    const Tensor& grad_output, const Tensor& query, const MaybeTensor& key, const Tensor& value,
    const MaybeTensor& rel_row, const MaybeTensor& rel_col, const Tensor& logsumexp, int64_t kernel_size,
    int64_t num_heads, const std::string& padding, double scale);

std::tuple<Tensor, Tensor> qkv_attention(const Tensor& qkv, const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                         int64_t kernel_size, int64_t num_heads, bool content,
                                         const std::string& padding, double scale);

std::tuple<Tensor, Tensor, Tensor> qkv_attention_backward(const Tensor& grad_output, const Tensor& qkv,
                                                          const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                                          const Tensor& logsumexp, int64_t kernel_size,
                                                          int64_t num_heads, bool content, const std::string& padding,
                                                          double scale);

Tensor qkv_attention_inference(const Tensor& qkv, const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                               const MaybeTensor& gain, const MaybeTensor& shift, bool relu, int64_t pool,
                               int64_t kernel_size, int64_t num_heads, bool content, const std::string& padding,
                               double scale);

// block_attention.cpp
std::tuple<Tensor, Tensor> block_attention(const Tensor& image, const Tensor& w_query, const MaybeTensor& w_key,
                                           const MaybeTensor& w_value, const MaybeTensor& rel_row,
                                           const MaybeTensor& rel_col, const MaybeTensor& value, int64_t block_size,
                                           int64_t num_heads, double scale);

std::tuple<Tensor, Tensor, Tensor> block_attention_pooled(const Tensor& image, const Tensor& w_query,
                                                          const MaybeTensor& w_key, const MaybeTensor& w_value,
                                                          const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                                          const MaybeTensor& value, const Tensor& sign,
                                                          int64_t block_size, int64_t num_heads, double scale);

using BlockGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

BlockGradients block_attention_backward(const Tensor& grad_output, const Tensor& image, const Tensor& w_query,
                                        const MaybeTensor& w_key, const MaybeTensor& w_value,
                                        const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                        const MaybeTensor& value, const Tensor& logsumexp, int64_t block_size,
                                        int64_t num_heads, double scale, bool image_gradient);

BlockGradients block_attention_pooled_backward(const Tensor& grad_extreme, const Tensor& grad_sums,
                                               const Tensor& position, const Tensor& image, const Tensor& w_query,
                                               const MaybeTensor& w_key, const MaybeTensor& w_value,
                                               const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                               const MaybeTensor& value, int64_t block_size, int64_t num_heads,
                                               double scale, bool image_gradient);

// norm_relu.cpp
void affine_(Tensor x, const MaybeTensor& gain, const MaybeTensor& shift, const MaybeTensor& residual, bool relu);

std::tuple<Tensor, Tensor, Tensor> norm_relu(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                             const MaybeTensor& residual, bool relu, double eps);

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_relu_backward(const Tensor& grad, const Tensor& x, const MaybeTensor& y,
                                                              const Tensor& weight, const Tensor& bias,
                                                              const Tensor& mean, const Tensor& variance, bool relu,
                                                              double eps);

// pointwise.cpp
Tensor pointwise_gradient(const Tensor& grad, const Tensor& x);

// about.cpp
std::string cpu_kernels();
std::string cpu_kernels_error();
double cpu_multiply_adds(int64_t rounds);
// Why CUDA kernels cannot run in this process, or on that GPU; empty if they can.
std::string cuda_error();
std::string cuda_error_on(int64_t device);
// Version and file of NVRTC, the directory of compiled kernels, and how many it contains.
std::tuple<std::string, std::string, std::string, int64_t> cuda_compiler();

}  // namespace sasa
