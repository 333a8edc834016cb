#include "run.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>

#include "cuda_calls.h"

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

template <class T>
void add_parts_on_cpu(const Tensor& parts, Tensor& total) {
  const int64_t number = parts.size(0), count = total.numel();
  const T* from = static_cast<const T*>(parts.data_ptr());
  T* to = static_cast<T*>(total.data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (int64_t part = 0; part < number; ++part) sum += from[part * count + i];
    to[i] = static_cast<T>(sum);
  }
}

}  // namespace

Parallel parallel() { return {run_parallel, forked ? 1 : static_cast<int>(torch::stable::get_num_threads())}; }

void add_parts(const Tensor& parts, Tensor& total) {
  if (!parts.is_cpu()) return cuda::add_parts(parts, total);
  const bool wide = total.scalar_type() == ScalarType::Double;
  (wide ? add_parts_on_cpu<double> : add_parts_on_cpu<float>)(parts, total);
}

void run(const LocalForward& call, const Tensor& like) {
  if (!like.is_cpu()) return cuda::run(call, like);
  kernels().local_forward(call, parallel());
}

std::tuple<Tensor, Tensor> run(LocalBackward& call, const Tensor& like, const MaybeTensor& rel_row,
                               const MaybeTensor& rel_col) {
  if (!like.is_cpu()) return cuda::run(call, like, rel_row, rel_col);
  const ParameterGradient row(rel_row, like, call.shape.batch), column(rel_col, like, call.shape.batch);
  call.grad_row = row.data(), call.grad_col = column.data();
  kernels().local_backward(call, parallel());
  return {row.total(), column.total()};
}

void run(BlockForward& call, const Tensor& like, Tensor* sums) {
  if (!like.is_cpu()) return cuda::run(call, like, sums);
  if (sums == nullptr) return kernels().block_forward(call, parallel());
  const int64_t strips = call.shape.batch * block_strips(call.shape);
  const Tensor parts = empty({strips, 2, call.shape.heads * call.shape.value_dim}, ScalarType::Double, like);
  call.sums = static_cast<double*>(parts.data_ptr());
  kernels().block_forward(call, parallel());
  add_parts(parts, *sums);
}

BlockParameterGradients run(BlockBackward& call, const Tensor& like, const BlockParameters& parameters) {
  if (!like.is_cpu()) return cuda::run(call, like, parameters);
  const int64_t strips = call.shape.batch * block_strips(call.shape);
  const ParameterGradient w_query(parameters.w_query, like, strips), w_key(parameters.w_key, like, strips);
  const ParameterGradient w_value(parameters.w_value, like, strips);
  const ParameterGradient row(parameters.rel_row, like, strips), column(parameters.rel_col, like, strips);
  call.grad_w_query = w_query.data(), call.grad_w_key = w_key.data(), call.grad_w_value = w_value.data();
  call.grad_row = row.data(), call.grad_col = column.data();
  kernels().block_backward(call, parallel());
  return {w_query.total(), w_key.total(), w_value.total(), row.total(), column.total()};
}

}  // namespace sasa
