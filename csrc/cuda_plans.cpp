#include "cuda_plans.h"

#include <algorithm>

namespace sasa::cuda {
namespace {

constexpr int kTensorCores = 80;  // the first architecture whose tensor cores the kernels are written for
constexpr int64_t kWidths[] = {8, 16, 32, 64, 128};

void check_size(const LocalShape& shape) {
  if (!plain::fits(shape))
    throw Error("the map has too many pixels for the CUDA kernels: " + std::to_string(shape.batch) + " x " +
                std::to_string(shape.height) + " x " + std::to_string(shape.width));
}

// The head widths of a family: all usual ones where this is one of them, else this one alone.
std::vector<int64_t> widths_of(const LocalShape& shape) {
  const bool usual = std::find(std::begin(kWidths), std::end(kWidths), shape.head_dim) != std::end(kWidths);
  if (!usual || shape.value_dim != shape.head_dim) return {shape.head_dim};
  return {std::begin(kWidths), std::end(kWidths)};
}

template <class Call>
Call with_width(Call call, int64_t width, int64_t value_width) {
  call.shape.head_dim = width, call.shape.value_dim = value_width;
  return call;
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

}  // namespace

ForwardPlan plan(const LocalForward& call, const Device& device) {
  ForwardPlan plan = {};
  plan.tensor_cores = device.architecture >= kTensorCores &&
                      plan_local_forward(call, device.shared_memory, plan.launch, plan.tiling) == nullptr;
  if (plan.tensor_cores) return plan;
  check_size(call.shape);
  plan.launch = plan_plain_forward(call).queries;
  return plan;
}

PlainPlan plan(const LocalBackward& call, const Device&) {
  check_size(call.shape);
  return plan_plain_backward(call);
}

std::vector<Launch> family(const LocalForward& call, const Device& device) {
  std::vector<Launch> launches;
  for (const int64_t width : widths_of(call.shape)) {
    const bool same = width == call.shape.head_dim;
    const LocalForward other = with_width(call, width, same ? call.shape.value_dim : width);
    launches.push_back(plan(other, device).launch);
    if (call.logsumexp == nullptr) continue;  // inference
    const PlainPlan backward = plan(backward_of(other), device);
    launches.push_back(backward.queries);
    launches.push_back(backward.keys);
  }
  return launches;
}

std::vector<Launch> family(const LocalBackward& call, const Device& device) {
  std::vector<Launch> launches;
  for (const int64_t width : widths_of(call.shape)) {
    const bool same = width == call.shape.head_dim;
    const PlainPlan backward = plan(with_width(call, width, same ? call.shape.value_dim : width), device);
    launches.push_back(backward.queries);
    launches.push_back(backward.keys);
  }
  return launches;
}

}  // namespace sasa::cuda
