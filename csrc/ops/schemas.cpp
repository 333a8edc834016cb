// The schemas of the operators, so that a program that loads this library alone can run exported graphs and packages.
// src/sasa/ops defines the same for installations without the library, and adds fakes, gradients and plain torch.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(sasa, m) {
  m.def(
      "local_attention(Tensor query, Tensor? key, Tensor value, Tensor? rel_row, Tensor? rel_col, int "
      "kernel_size, int num_heads, str padding, float scale) -> (Tensor output, Tensor logsumexp)");
  m.def(
      "local_attention_backward(Tensor grad_output, Tensor query, Tensor? key, Tensor value, Tensor? rel_row, "
      "Tensor? rel_col, Tensor logsumexp, int kernel_size, int num_heads, str padding, float scale) -> (Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "qkv_attention(Tensor qkv, Tensor? rel_row, Tensor? rel_col, int kernel_size, int num_heads, bool "
      "content, str padding, float scale) -> (Tensor output, Tensor logsumexp)");
  m.def(
      "qkv_attention_backward(Tensor grad_output, Tensor qkv, Tensor? rel_row, Tensor? rel_col, Tensor "
      "logsumexp, int kernel_size, int num_heads, bool content, str padding, float scale) -> (Tensor, Tensor, "
      "Tensor)");
  m.def(
      "qkv_attention_inference(Tensor qkv, Tensor? rel_row, Tensor? rel_col, Tensor? gain, Tensor? shift, bool "
      "relu, int pool, int kernel_size, int num_heads, bool content, str padding, float scale) -> Tensor");
  m.def(
      "block_attention(Tensor image, Tensor w_query, Tensor? w_key, Tensor? w_value, Tensor? rel_row, Tensor? "
      "rel_col, Tensor? value, int block_size, int num_heads, float scale) -> (Tensor output, Tensor logsumexp)");
  m.def(
      "block_attention_backward(Tensor grad_output, Tensor image, Tensor w_query, Tensor? w_key, Tensor? "
      "w_value, Tensor? rel_row, Tensor? rel_col, Tensor? value, Tensor logsumexp, int block_size, int "
      "num_heads, float scale, bool image_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "block_attention_pooled(Tensor image, Tensor w_query, Tensor? w_key, Tensor? w_value, Tensor? rel_row, "
      "Tensor? rel_col, Tensor? value, Tensor sign, int block_size, int num_heads, float scale) -> (Tensor "
      "extreme, Tensor position, Tensor sums)");
  m.def(
      "block_attention_pooled_backward(Tensor grad_extreme, Tensor grad_sums, Tensor position, Tensor image, "
      "Tensor w_query, Tensor? w_key, Tensor? w_value, Tensor? rel_row, Tensor? rel_col, Tensor? value, int "
      "block_size, int num_heads, float scale, bool image_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor)");
  m.def(
      "norm_relu(Tensor x, Tensor weight, Tensor bias, Tensor? residual, bool relu, float eps) -> (Tensor y, "
      "Tensor mean, Tensor variance)");
  m.def(
      "norm_relu_backward(Tensor grad, Tensor x, Tensor? y, Tensor weight, Tensor bias, Tensor mean, Tensor "
      "variance, bool relu, float eps) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("pointwise_gradient(Tensor grad, Tensor x) -> Tensor");
  m.def("affine_(Tensor(a!) x, Tensor? gain, Tensor? shift, Tensor? residual, bool relu) -> ()");
}
