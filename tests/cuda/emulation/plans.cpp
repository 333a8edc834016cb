<<<<<<< HEAD
<<<<<<< HEAD
=======
>>>>>>> cudaplain
// The plans of csrc/cuda, for tests to call.
#include "local_plan.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace sasa;

EXPORT const char* sasa_plan_local_forward(const LocalForward* call, size_t shared_limit, Launch* launch,
                                           LocalTiling* tiling) {
  return plan_local_forward(*call, shared_limit, *launch, *tiling);
<<<<<<< HEAD
=======
// The launch plans of csrc/cuda, for tests.
#include "plain_plan.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void plan_plain_forward(const sasa::LocalForward& call, sasa::PlainPlan& plan) {
  plan = sasa::plan_plain_forward(call);
}
EXPORT void plan_plain_backward(const sasa::LocalBackward& call, sasa::PlainPlan& plan) {
  plan = sasa::plan_plain_backward(call);
}
EXPORT void plan_sum_parts(int64_t count, int of_double, sasa::Launch& launch) {
  launch = sasa::plan_sum_parts(count, of_double != 0);
>>>>>>> cudaplain
=======
>>>>>>> cudaplain
}

EXPORT const char* sasa_plan_local_backward(const LocalBackward* call, size_t shared_limit, LocalBackwardPlan* plan) {
  return plan_local_backward(*call, shared_limit, *plan);
}
