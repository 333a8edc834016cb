// Which kernels a call launches on which GPU: tensor cores where they serve it, else the plain kernels. No torch.
#pragma once
#include <vector>

#include "cuda/block_plan.h"
#include "cuda/local_plan.h"
#include "cuda/plain_plan.h"
#include "cuda_driver.h"

namespace sasa::cuda {

struct ForwardPlan {
  Launch launch;
  bool tensor_cores;  // then its arguments are (call, tiling), else (call)
  LocalTiling tiling;
};

struct BackwardPlan {
  bool tensor_cores;  // which of the two it is
  LocalBackwardPlan fast;
  PlainPlan plain;
};

// They raise an UnsupportedError where not even the plain kernels take the call.
ForwardPlan plan(const LocalForward& call, const Device& device);
BackwardPlan plan(const LocalBackward& call, const Device& device);
BlockPlan plan(const BlockForward& call, const Device& device);
BlockPlan plan(const BlockBackward& call, const Device& device);

// What a network that makes this call is likely to launch, this call included: heads of all the widths that networks
// have, and in training the backward kernels.
std::vector<Launch> family(const LocalForward& call, const Device& device);
std::vector<Launch> family(const LocalBackward& call, const Device& device);
std::vector<Launch> family(const BlockForward& call, const Device& device);
std::vector<Launch> family(const BlockBackward& call, const Device& device);

}  // namespace sasa::cuda
