// Registers the kernels under the operators of schemas.cpp. Their fakes and gradients are in Python, in src/sasa/ops.
// The implementations are in the other files here: they check shapes, allocate results, and pass raw pointers to the
// kernels.
//
// The CUDA kernels also have operators in the namespace sasa_cuda. The back-end "cuda" calls those, whichever kernels
// the dispatcher uses for CUDA tensors.
#include <cstdlib>

#include "cuda_calls.h"
#include "cuda_or_plain.h"
#include "operators.h"

namespace sasa {
namespace {

// Whether CUDA tensors use these kernels (else Triton's) if both can run and SASA_GPU is not set to "cuda" or "triton".
constexpr bool kCudaByDefault = false;  // these kernels have not been run on a GPU yet; Triton's have

bool choose_cuda() {
  const char* wanted = std::getenv("SASA_GPU");
  const bool given = wanted != nullptr && *wanted != '\0';
  return (given ? std::string(wanted) == "cuda" : kCudaByDefault) && cuda::why_not_with_torch().empty();
}

// Decided once, when the library is loaded.
bool cuda_chosen() {
  static const bool chosen = choose_cuda();
  return chosen;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(sasa, m) {
  m.def("cpu_kernels() -> str");
  m.def("cpu_kernels_error() -> str");
  m.def("cpu_multiply_adds(int rounds) -> float");
  m.def("cuda_chosen() -> bool");
  m.def("cuda_error() -> str");
  m.def("cuda_error_on(int device) -> str");
  m.def("cuda_compiler() -> (str, str, str, int)");
}

STABLE_TORCH_LIBRARY_IMPL(sasa, CompositeExplicitAutograd, m) {
  m.impl("cpu_kernels", TORCH_BOX(&cpu_kernels));
  m.impl("cpu_kernels_error", TORCH_BOX(&cpu_kernels_error));
  m.impl("cpu_multiply_adds", TORCH_BOX(&cpu_multiply_adds));
  m.impl("cuda_chosen", TORCH_BOX(&cuda_chosen));
  m.impl("cuda_error", TORCH_BOX(&cuda_error));
  m.impl("cuda_error_on", TORCH_BOX(&cuda_error_on));
  m.impl("cuda_compiler", TORCH_BOX(&cuda_compiler));
}

STABLE_TORCH_LIBRARY_IMPL(sasa, CPU, m) {
  if (kernels_error() != nullptr) return;  // the operators keep the implementations registered in Python
  m.impl("local_attention", TORCH_BOX(&local_attention));
  m.impl("local_attention_backward", TORCH_BOX(&local_attention_backward));
  m.impl("qkv_attention", TORCH_BOX(&qkv_attention));
  m.impl("qkv_attention_backward", TORCH_BOX(&qkv_attention_backward));
  m.impl("qkv_attention_inference", TORCH_BOX(&qkv_attention_inference));
  m.impl("block_attention", TORCH_BOX(&block_attention));
  m.impl("block_attention_backward", TORCH_BOX(&block_attention_backward));
  m.impl("block_attention_pooled", TORCH_BOX(&block_attention_pooled));
  m.impl("block_attention_pooled_backward", TORCH_BOX(&block_attention_pooled_backward));
  m.impl("norm_relu", TORCH_BOX(&norm_relu));
  m.impl("norm_relu_backward", TORCH_BOX(&norm_relu_backward));
  m.impl("pointwise_gradient", TORCH_BOX(&pointwise_gradient));
  m.impl("affine_", TORCH_BOX(&affine_));
}

STABLE_TORCH_LIBRARY_IMPL(sasa_cuda, CUDA, m) {
  m.impl("local_attention", TORCH_BOX(&local_attention));
  m.impl("local_attention_backward", TORCH_BOX(&local_attention_backward));
  m.impl("block_attention", TORCH_BOX(&block_attention));
  m.impl("block_attention_backward", TORCH_BOX(&block_attention_backward));
}

// The dispatcher's operators for CUDA tensors; src/sasa/ops/register.py defines those of sasa_plain.
#define SASA_OR_PLAIN(name)                                    \
  static constexpr char plain_##name[] = "sasa_plain::" #name; \
  m.impl(#name, TORCH_BOX((&cuda::OrPlain<&name, plain_##name>::run)))

STABLE_TORCH_LIBRARY_IMPL(sasa, CUDA, m) {
  if (!cuda_chosen()) return;
  SASA_OR_PLAIN(local_attention);
  SASA_OR_PLAIN(local_attention_backward);
  SASA_OR_PLAIN(qkv_attention);
  SASA_OR_PLAIN(qkv_attention_backward);
  SASA_OR_PLAIN(qkv_attention_inference);
  SASA_OR_PLAIN(block_attention);
  SASA_OR_PLAIN(block_attention_backward);
  SASA_OR_PLAIN(block_attention_pooled);
  SASA_OR_PLAIN(block_attention_pooled_backward);
}

#undef SASA_OR_PLAIN

}  // namespace sasa
