// The plans of csrc/cuda, for tests to call.
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
