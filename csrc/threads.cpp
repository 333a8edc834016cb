// The kernels run on torch's own threads.
#include <pthread.h>

#include "tensors.h"

namespace sasa {
namespace {

// A forked child has none of its parent's threads, but torch's pool believes that it does, and waits for them.
bool forked = false;
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

void run_parallel(const Parallel& pool, int64_t count, void (*task)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  if (pool.threads == 1 || count == 1) return task(context, 0, count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { task(context, begin, end); });
}

}  // namespace

Parallel parallel() { return {run_parallel, forked ? 1 : static_cast<int>(torch::stable::get_num_threads())}; }

}  // namespace sasa
