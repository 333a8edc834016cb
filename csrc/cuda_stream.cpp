#include "cuda_stream.h"

#include <dlfcn.h>

#include "cuda_calls.h"

namespace sasa::cuda {
namespace {

using CurrentStream = AOTITorchError (*)(int32_t device, void** stream);

// Of libtorch_cuda.so, which torch has loaded if it was built with CUDA: a link with it would keep this library from
// loading elsewhere.
CurrentStream find_current_stream() {
  void* torch = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
  if (torch == nullptr) return nullptr;
  return reinterpret_cast<CurrentStream>(dlsym(torch, "aoti_torch_get_current_cuda_stream"));
}

CurrentStream current_stream_function() {
  static const CurrentStream function = find_current_stream();
  return function;
}

}  // namespace

Stream current_stream(int device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(current_stream_function()(device, &stream));
  return stream;
}

std::string why_not_with_torch() {
  return current_stream_function() == nullptr ? "this torch was built without CUDA" : why_not();
}

}  // namespace sasa::cuda
