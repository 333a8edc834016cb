// Eq. 3 on maps of any size: the kernels for small maps where they are faster, else those for larger ones.
#pragma once
#include "small_backward.h"
#include "small_forward.h"

namespace {

void local_forward(const LocalForward& call, const sasa::Parallel& threads) {
  with_compute_type(call.shape.storage, [&](auto number) {
    using T = decltype(number);
    const auto fallback = [&](int64_t image, int64_t head) {
      LocalForwardTask<T, 0>(call, 1).run(image, head, 0, call.shape.height);
    };
    if (!run_small<T, SmallForward>(call, threads, fallback)) local_forward_as<T>(call, threads);
  });
}

void local_backward(const LocalBackward& call, const sasa::Parallel& threads) {
  with_compute_type(call.shape.storage, [&](auto number) {
    using T = decltype(number);
    const auto fallback = [&](int64_t image, int64_t head) { LocalBackwardTask<T, 0>(call).run(image, head); };
    if (!run_small<T, SmallBackward>(call, threads, fallback)) local_backward_as<T>(call, threads);
  });
}

}  // namespace
