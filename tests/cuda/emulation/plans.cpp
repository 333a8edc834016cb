// The plans of csrc/cuda, for tests to call.
#include "block_plan.h"
#include "local_plan.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace sasa;

EXPORT const char* sasa_plan_local_forward(const LocalForward* call, size_t shared_limit, Launch* launch,
                                           LocalTiling* tiling, int64_t blocks) {
  return plan_local_forward(*call, shared_limit, *launch, *tiling, blocks);
}

EXPORT const char* sasa_plan_local_backward(const LocalBackward* call, size_t shared_limit, LocalBackwardPlan* plan,
                                            int64_t blocks) {
  return plan_local_backward(*call, shared_limit, *plan, blocks);
}
EXPORT const char* sasa_plan_plain_forward(const LocalForward* call, size_t, PlainPlan* plan) {
  return plan_plain_forward(*call, *plan);
}
EXPORT const char* sasa_plan_plain_backward(const LocalBackward* call, size_t shared_limit, PlainPlan* plan) {
  return plan_plain_backward(*call, shared_limit, *plan);
}
EXPORT const char* sasa_plan_block_forward(const BlockForward* call, size_t shared_limit, BlockPlan* plan) {
  return plan_block_forward(*call, shared_limit, *plan);
}
EXPORT const char* sasa_plan_block_backward(const BlockBackward* call, size_t shared_limit, BlockPlan* plan) {
  return plan_block_backward(*call, shared_limit, *plan);
}
EXPORT void sasa_plan_sum_parts(int64_t count, int of_double, Launch* launch) {
  *launch = plan_sum_parts(count, of_double != 0);
}
