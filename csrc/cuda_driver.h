// Launches of CUDA kernels through the driver. The first launch of a kernel compiles and loads it; every later one is a
// look into a table and a call of the driver. Safe from any number of threads. No torch.
#pragma once
#include <string>
#include <vector>

#include "cuda/launch.h"
#include "cuda_api.h"

namespace sasa::cuda {

struct Device {
  int ordinal;
  int architecture;  // 90 for compute capability 9.0
  int multiprocessors;
  size_t shared_memory;  // most bytes that a block may have
  Context context;       // the primary one, which torch uses too
};

// Facts of a GPU, by its ordinal, which is torch's device index. Raises an UnsupportedError that says why no kernel can run on it.
const Device& device(int ordinal);

// The loaded function of a kernel, or nullptr before its first use on that device.
Function find(const Device& device, const Launch& launch);

// Compile and load it; and compile `family`, which is likely to be wanted next, on other threads. Not while `stream` is
// being captured into a CUDA graph: that raises an Error.
Function load(const Device& device, Stream stream, const Launch& launch, const std::vector<Launch>& family);

// Asynchronous, unless CUDA_LAUNCH_BLOCKING is 1. `parameters` are pointers to the kernel's arguments.
void run(const Device& device, Stream stream, const Launch& launch, Function function, void** parameters);

// `family` is called at the kernel's first use only: () -> std::vector<Launch>.
template <class Family>
void launch(const Device& device, Stream stream, const Launch& launch, void** parameters, const Family& family) {
  Function function = find(device, launch);
  if (function == nullptr) function = load(device, stream, launch, family());
  run(device, stream, launch, function, parameters);
}

}  // namespace sasa::cuda
