#include "cuda_plans.h"

#include <algorithm>

namespace sasa::cuda {
namespace {

constexpr int64_t kWidths[] = {8, 16, 32, 64, 128};

bool has_tensor_cores(const Device& device) { return device.architecture >= 80; }  // that the kernels are written for

void refuse(const char* reason) {
  if (reason != nullptr) throw UnsupportedError(std::string("no CUDA kernel takes this call: ") + reason);
}

// The call with heads of each width of a family: of all usual ones where it has one of them, else of its own alone.
template <class Call>
std::vector<Call> with_widths(const Call& call) {
  const int64_t width = call.shape.head_dim;
  const bool usual = std::find(std::begin(kWidths), std::end(kWidths), width) != std::end(kWidths);
  if (!usual || call.shape.value_dim != width) return {call};
  std::vector<Call> calls;
  for (const int64_t other : kWidths) {
    calls.push_back(call);
    calls.back().shape.head_dim = calls.back().shape.value_dim = other;
  }
  return calls;
}

// The backward pass of a forward call, as far as plans look at it: gradients laid out as their inputs.
LocalBackward backward_of(const LocalForward& call) {
  LocalBackward backward = {};
  backward.shape = call.shape;
  backward.query = backward.grad_query = call.query;
  backward.key = backward.grad_key = call.key;
  backward.value = backward.grad_value = call.value;
  backward.grad_output = call.output;
  backward.rel_row = call.rel_row, backward.rel_col = call.rel_col;
  return backward;
}

BlockBackward backward_of(const BlockForward& call) {
  BlockBackward backward = {};
  backward.shape = call.shape;
  backward.grad_output = call.output;
  backward.w_query = call.w_query, backward.w_key = call.w_key, backward.w_value = call.w_value;
  return backward;
}

std::vector<Launch> launches_of(const ForwardPlan& plan) { return {plan.launch}; }
std::vector<Launch> launches_of(const BackwardPlan& plan) {
  if (plan.tensor_cores) return {plan.fast.queries, plan.fast.sums, plan.fast.keys};
  return {plan.plain.queries, plan.plain.keys};
}
std::vector<Launch> launches_of(const BlockPlan& plan) { return {plan.fold, plan.attend, plan.sum, plan.unfold}; }

// Adds what a call launches; nothing where no kernel takes it: the call has not been made yet.
template <class Call>
void add_launches(const Call& call, const Device& device, std::vector<Launch>& launches) {
  try {
    for (const Launch& launch : launches_of(plan(call, device)))
      if (launch.source != nullptr) launches.push_back(launch);
  } catch (const Error&) {
  }
}

}  // namespace

ForwardPlan plan(const LocalForward& call, const Device& device) {
  ForwardPlan plan = {};
  plan.tensor_cores =
      has_tensor_cores(device) && plan_local_forward(call, device.shared_memory, plan.launch, plan.tiling) == nullptr;
  if (plan.tensor_cores) return plan;
  PlainPlan plain;
  refuse(plan_plain_forward(call, plain));
  plan.launch = plain.queries;
  return plan;
}

BackwardPlan plan(const LocalBackward& call, const Device& device) {
  BackwardPlan plan = {};
  plan.tensor_cores = has_tensor_cores(device) && plan_local_backward(call, device.shared_memory, plan.fast) == nullptr;
  if (!plan.tensor_cores) refuse(plan_plain_backward(call, device.shared_memory, plan.plain));
  return plan;
}

BlockPlan plan(const BlockForward& call, const Device& device) {
  BlockPlan plan;
  refuse(plan_block_forward(call, device.shared_memory, plan, has_tensor_cores(device)));
  return plan;
}

BlockPlan plan(const BlockBackward& call, const Device& device) {
  BlockPlan plan;
  refuse(plan_block_backward(call, device.shared_memory, plan, has_tensor_cores(device)));
  return plan;
}

std::vector<Launch> family(const LocalForward& call, const Device& device) {
  std::vector<Launch> launches;
  for (const LocalForward& other : with_widths(call)) {
    add_launches(other, device, launches);
    if (call.logsumexp != nullptr) add_launches(backward_of(other), device, launches);
  }
  return launches;
}

std::vector<Launch> family(const LocalBackward& call, const Device& device) {
  std::vector<Launch> launches;
  for (const LocalBackward& other : with_widths(call)) add_launches(other, device, launches);
  return launches;
}

std::vector<Launch> family(const BlockForward& call, const Device& device) {
  std::vector<Launch> launches;
  add_launches(call, device, launches);
  if (call.logsumexp != nullptr || call.sums != nullptr) add_launches(backward_of(call), device, launches);
  return launches;
}

std::vector<Launch> family(const BlockBackward& call, const Device& device) {
  std::vector<Launch> launches;
  add_launches(call, device, launches);
  return launches;
}

}  // namespace sasa::cuda
