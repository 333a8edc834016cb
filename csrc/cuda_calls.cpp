#include "cuda_calls.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda_plans.h"

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

// torch's current stream of a device.
Stream current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(current_stream_function()(device, &stream));
  return stream;
}

// Launches on the device of a tensor, which is the current one while this lives.
class Launcher {
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

// The sum over parts needs no family: it is one small kernel.
std::vector<Launch> no_family() { return {}; }

// Both passes back: the tables' gradients come in parts, of each image or of each block of threads.
std::tuple<Tensor, Tensor> run_fast(const Launcher& on, const LocalBackwardPlan& plan, LocalBackward& call,
                                    const Tensor& like, const MaybeTensor& rel_row, const MaybeTensor& rel_col) {
  const ParameterGradient row(rel_row, like, call.shape.batch), column(rel_col, like, call.shape.batch);
  call.grad_row = row.data(), call.grad_col = column.data();
  const Tensor delta = empty({static_cast<int64_t>(plan.delta_bytes / 4)}, ScalarType::Float, like);
  const Tensor parts = empty({static_cast<int64_t>(plan.parts_bytes / 4)}, ScalarType::Float, like);
  const LocalWork work = {static_cast<float*>(delta.data_ptr()), static_cast<float*>(parts.data_ptr())};
  const auto others = [&] { return family(call, on.device()); };
  on.launch(plan.queries, others, call, plan.queries_tiling, work);
  if (plan.sums.source != nullptr) on.launch(plan.sums, others, call, plan.queries_tiling, work);
  on.launch(plan.keys, others, call, plan.keys_tiling, work);
  return {row.total(), column.total()};
}

std::tuple<Tensor, Tensor> run_plain(const Launcher& on, const PlainPlan& plan, const LocalBackward& call,
                                     const Tensor& like, const MaybeTensor& rel_row, const MaybeTensor& rel_col) {
  const ParameterGradient row(rel_row, like, plan.parts), column(rel_col, like, plan.parts);
  const Tensor delta = empty({plan.delta_elements}, compute_type(like), like);
  const PlainWorkspace workspace = {delta.data_ptr(), row.data(), column.data()};
  const auto others = [&] { return family(call, on.device()); };
  on.launch(plan.queries, others, call, workspace);
  on.launch(plan.keys, others, call, workspace);
  return {row.total(), column.total()};
}

}  // namespace

std::string why_not_with_torch() {
  return current_stream_function() == nullptr ? "this torch was built without CUDA" : why_not();
}

void add_parts(const Tensor& parts, Tensor& total) {
  const SumParts sum = {parts.data_ptr(), total.data_ptr(), parts.size(0), total.numel()};
  const bool wide = total.scalar_type() == ScalarType::Double;
  Launcher(total).launch(plan_sum_parts(sum.count, wide), no_family, sum);
}

void run(const LocalForward& call, const Tensor& like) {
  const Launcher on(like);
  const ForwardPlan chosen = plan(call, on.device());
  const auto others = [&] { return family(call, on.device()); };
  if (chosen.tensor_cores) return on.launch(chosen.launch, others, call, chosen.tiling);
  on.launch(chosen.launch, others, call);
}

std::tuple<Tensor, Tensor> run(LocalBackward& call, const Tensor& like, const MaybeTensor& rel_row,
                               const MaybeTensor& rel_col) {
  const Launcher on(like);
  const BackwardPlan chosen = plan(call, on.device());
  if (chosen.tensor_cores) return run_fast(on, chosen.fast, call, like, rel_row, rel_col);
  return run_plain(on, chosen.plain, call, like, rel_row, rel_col);
}

void run(BlockForward& call, const Tensor& like, Tensor* sums) {
  const Launcher on(like);
  if (sums != nullptr) call.sums = static_cast<double*>(sums->data_ptr());
  const BlockPlan chosen = plan(call, on.device());
  const Tensor folded = empty({chosen.folded_elements}, compute_type(like), like);
  const Tensor parts = empty({sums == nullptr ? 0 : chosen.parts, chosen.elements}, ScalarType::Double, like);
  BlockWorkspace workspace = {};
  workspace.folded = folded.data_ptr(), workspace.sums = sums == nullptr ? nullptr : parts.data_ptr();
  const auto others = [&] { return family(call, on.device()); };
  on.launch(chosen.fold, others, call, workspace);
  on.launch(chosen.attend, others, call, workspace);
  if (sums == nullptr) return;
  const SumParts add = {parts.data_ptr(), sums->data_ptr(), chosen.parts, chosen.elements};
  on.launch(chosen.sum, others, add);
}

BlockParameterGradients run(BlockBackward& call, const Tensor& like, const BlockParameters& parameters) {
  const Launcher on(like);
  const ParameterGradient w_query(parameters.w_query, like, 1), w_key(parameters.w_key, like, 1);
  const ParameterGradient w_value(parameters.w_value, like, 1);
  const ParameterGradient row(parameters.rel_row, like, 1), column(parameters.rel_col, like, 1);
  call.grad_w_query = w_query.data(), call.grad_w_key = w_key.data(), call.grad_w_value = w_value.data();
  call.grad_row = row.data(), call.grad_col = column.data();
  const BlockPlan chosen = plan(call, on.device());
  const Tensor folded = empty({chosen.folded_elements}, compute_type(like), like);
  const Tensor parts = empty({chosen.parts, chosen.elements}, compute_type(like), like);
  const Tensor total = empty({chosen.elements}, compute_type(like), like);
  BlockWorkspace workspace = {};
  workspace.folded = folded.data_ptr(), workspace.grads = parts.data_ptr(), workspace.total = total.data_ptr();
  const auto others = [&] { return family(call, on.device()); };
  on.launch(chosen.fold, others, call, workspace);
  on.launch(chosen.attend, others, call, workspace);
  const SumParts add = {parts.data_ptr(), total.data_ptr(), chosen.parts, chosen.elements};
  on.launch(chosen.sum, others, add);
  on.launch(chosen.unfold, others, call, workspace);
  return {w_query.total(), w_key.total(), w_value.total(), row.total(), column.total()};
}

}  // namespace sasa::cuda
