// Which kernels a call launches on which GPU: tensor cores where they serve it, else the plain kernels. No torch.
#pragma once
#include <vector>

#include "cuda/local_plan.h"
#include "cuda/plain_plan.h"
#include "cuda_driver.h"

namespace sasa::cuda {

struct ForwardPlan {
  Launch launch;
  bool tensor_cores;  // then its arguments are (call, tiling), else (call)
  LocalTiling tiling;
};

// Raises an Error where not even the plain kernels take the call.
ForwardPlan plan(const LocalForward& call, const Device& device);
PlainPlan plan(const LocalBackward& call, const Device& device);

// What a network that makes this call will launch besides: the same with heads of all the widths that networks have, and
// in training the backward kernels.
std::vector<Launch> family(const LocalForward& call, const Device& device);
std::vector<Launch> family(const LocalBackward& call, const Device& device);

}  // namespace sasa::cuda
