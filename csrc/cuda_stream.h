// Launches on torch's current stream.
#pragma once
#include <torch/csrc/stable/accelerator.h>

#include "cuda_driver.h"
#include "ops/tensors.h"

namespace sasa::cuda {

// torch's current stream of a device.
Stream current_stream(int device);

// Launches on the device of a tensor, which is the current one while this lives.
class SASA_HIDDEN Launcher {
 public:
  explicit Launcher(const Tensor& like) : Launcher(static_cast<int>(like.get_device_index())) {}

  const Device& device() const { return device_; }

  // The arguments are passed by value, as the kernel declares them. `family`: see cuda::launch.
  template <class Family, class... Arguments>
  void launch(const Launch& what, const Family& family, const Arguments&... arguments) const {
    void* parameters[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
    cuda::launch(device_, stream_, what, parameters, family);
  }

 private:
  explicit Launcher(int index) : guard_(index), device_(cuda::device(index)), stream_(current_stream(index)) {}

  torch::stable::accelerator::DeviceGuard guard_;
  const Device& device_;
  Stream stream_;
};

}  // namespace sasa::cuda
