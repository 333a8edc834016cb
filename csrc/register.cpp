// Registers the CPU kernels under the operators whose schemas, fakes and gradients are defined in Python, in
// src/sasa/ops. What runs is in op_*.cpp: they check shapes, allocate results, and hand raw pointers to the kernels.
#include "operators.h"

namespace sasa {

STABLE_TORCH_LIBRARY_FRAGMENT(sasa, m) {
  m.def("cpu_kernels() -> str");
  m.def("cpu_kernels_error() -> str");
  m.def("cpu_multiply_adds(int rounds) -> float");
}

STABLE_TORCH_LIBRARY_IMPL(sasa, CompositeExplicitAutograd, m) {
  m.impl("cpu_kernels", TORCH_BOX(&cpu_kernels));
  m.impl("cpu_kernels_error", TORCH_BOX(&cpu_kernels_error));
  m.impl("cpu_multiply_adds", TORCH_BOX(&cpu_multiply_adds));
}

STABLE_TORCH_LIBRARY_IMPL(sasa, CPU, m) {
  if (kernels_error() != nullptr) return;  // the operators then stay with what Python registered
  const Kernels& table = kernels();        // and so do those that the table lacks
  if (table.local_forward != nullptr) {
    m.impl("local_attention", TORCH_BOX(&local_attention));
    m.impl("qkv_attention", TORCH_BOX(&qkv_attention));
    m.impl("qkv_attention_inference", TORCH_BOX(&qkv_attention_inference));
  }
  if (table.local_backward != nullptr) {
    m.impl("local_attention_backward", TORCH_BOX(&local_attention_backward));
    m.impl("qkv_attention_backward", TORCH_BOX(&qkv_attention_backward));
  }
  if (table.block_forward != nullptr) {
    m.impl("block_attention", TORCH_BOX(&block_attention));
    m.impl("block_attention_pooled", TORCH_BOX(&block_attention_pooled));
  }
  if (table.norm_forward != nullptr) m.impl("norm_relu", TORCH_BOX(&norm_relu));
  if (table.norm_backward != nullptr) m.impl("norm_relu_backward", TORCH_BOX(&norm_relu_backward));
  if (table.affine != nullptr) m.impl("affine_", TORCH_BOX(&affine_));
  if (table.block_backward != nullptr) {
    m.impl("block_attention_backward", TORCH_BOX(&block_attention_backward));
    m.impl("block_attention_pooled_backward", TORCH_BOX(&block_attention_pooled_backward));
  }
}

}  // namespace sasa
