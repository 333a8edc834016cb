#include "cuda_calls.h"

#include "cuda/local_plan.h"
#include "cuda/plain_plan.h"
#include "cuda_stream.h"

namespace sasa::cuda {
namespace {

const auto no_family = [] { return std::vector<Launch>(); };

void launch_sum(const Launcher& on, const SumParts& sum, bool wide) {
  on.launch(plan_sum_parts(sum.count, wide), no_family, sum);
}

}  // namespace

void add_parts(const Tensor& parts, Tensor& total) {
  const bool wide = total.scalar_type() == ScalarType::Double;
  launch_sum(Launcher(total), {parts.data_ptr(), total.data_ptr(), parts.size(0), total.numel()}, wide);
}

}  // namespace sasa::cuda
