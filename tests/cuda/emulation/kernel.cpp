// What a test's shared object exports: one kernel, launched as cuLaunchKernel would be, and the checks and counts of
// emulation. The build gives -DSASA_KERNEL_SOURCE='"local_forward.cuh"' -DSASA_KERNEL_NAME=sasa_local_forward.
#include <utility>

#include "device.h"
#include "kernels.h"
#include SASA_KERNEL_SOURCE
#include "memory.h"

using namespace sasa;

namespace emulation {

template <class... Parameters, size_t... I>
const char* launch_kernel(void (*kernel)(Parameters...), void** arguments, Dim3 grid, unsigned threads, unsigned shared,
                          std::index_sequence<I...>) {
  return launch(grid, threads, shared, [&] { kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...); });
}
template <class... Parameters>
const char* launch_kernel(void (*kernel)(Parameters...), void** arguments, Dim3 grid, unsigned threads,
                          unsigned shared) {
  return launch_kernel(kernel, arguments, grid, threads, shared, std::index_sequence_for<Parameters...>());
}

}  // namespace emulation

extern "C" {

// buffers: triples (address, bytes, writable). Returns a sentence where it went wrong, else nullptr.
__attribute__((visibility("default"))) const char* emulate(const unsigned* grid, unsigned threads, unsigned shared,
                                                           void** arguments, const uintptr_t* buffers, int buffer_count,
                                                           emulation::Counts* counts) {
  emulation::buffers.clear();
  for (int i = 0; i < buffer_count; i++, buffers += 3) {
    emulation::buffers.push_back({buffers[0], buffers[0] + buffers[1], buffers[2] != 0});
  }
  emulation::counting = counts != nullptr;
  emulation::counts = {};
  const char* error =
      emulation::launch_kernel(SASA_KERNEL_NAME, arguments, {grid[0], grid[1], grid[2]}, threads, shared);
  if (counts != nullptr) *counts = emulation::counts;
  return error;
}
}
