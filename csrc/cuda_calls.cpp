#include "cuda_calls.h"

#include "cuda_plans.h"
#include "cuda_stream.h"

namespace sasa::cuda {
namespace {

// The sum over parts needs no family: it is one small kernel.
std::vector<Launch> no_family() { return {}; }

}  // namespace

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

std::tuple<Tensor, Tensor> run(const LocalBackward& call, const Tensor& like, const MaybeTensor& rel_row,
                               const MaybeTensor& rel_col) {
  const Launcher on(like);
  const PlainPlan chosen = plan(call, on.device());
  const ParameterGradient row(rel_row, like, chosen.parts), column(rel_col, like, chosen.parts);
  const Tensor delta = empty({chosen.delta_elements}, compute_type(like), like);
  const PlainWorkspace workspace = {delta.data_ptr(), row.data(), column.data()};
  const auto others = [&] { return family(call, on.device()); };
  on.launch(chosen.queries, others, call, workspace);
  on.launch(chosen.keys, others, call, workspace);
  return {row.total(), column.total()};
}

void run(BlockForward&, const Tensor&, Tensor*) { throw Error("block attention has no CUDA kernels yet"); }

BlockParameterGradients run(BlockBackward&, const Tensor&, const BlockParameters&) {
  throw Error("block attention has no CUDA kernels yet");
}

}  // namespace sasa::cuda
