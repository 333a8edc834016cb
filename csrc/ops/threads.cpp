// Runs the kernels on torch's threads.
#include <pthread.h>

#include <algorithm>
#include <atomic>

#include "tensors.h"

namespace sasa {
namespace {

// A forked child does not have the threads of its parent, but torch's pool would wait for them.
bool forked = false;
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// Each thread takes the next piece when it has finished one, so that a thread which loses its core for a while delays
// one piece, not its whole share. No result depends on which thread takes a piece, or on where pieces begin.
constexpr int64_t kPiecesPerThread = 4;

void run_parallel(const Parallel& pool, int64_t count, void (*task)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  if (pool.threads == 1 || count == 1) return task(context, 0, count);
  const int64_t pieces = pool.threads * kPiecesPerThread, piece = (count + pieces - 1) / pieces;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min<int64_t>(pool.threads, count), 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(piece, std::memory_order_relaxed)) < count;)
      task(context, begin, std::min(begin + piece, count));
  });
}

}  // namespace

Parallel parallel() { return {run_parallel, forked ? 1 : static_cast<int>(torch::stable::get_num_threads())}; }

}  // namespace sasa
