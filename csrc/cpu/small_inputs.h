// Shared by forward and backward on small maps: their inputs, and how problems become tasks.
#pragma once
#include "small_tile.h"

namespace {

// A bit for each lane in which a number is NaN or infinite. The kernels for larger maps handle these problems.
template <class T, int L>
uint32_t nonfinite_lanes(const T* numbers, int64_t count) {
  Vec<T, L> sum = {};
  for (int64_t i = 0; i < count; ++i) sum += load<T, L>(numbers + i * L) * static_cast<T>(0);
  uint32_t lanes = 0;
  for (int lane = 0; lane < L; ++lane) lanes |= static_cast<uint32_t>(sum[lane] != 0) << lane;
  return lanes;
}

constexpr int64_t kQueryBlock = 4;  // neighbouring queries (or keys) that one product handles

// q, k, v and the embeddings of a group, and the relative terms of a row of queries.
template <class T, int L>
class SmallInputs {
 public:
  template <class Call>  // LocalForward or LocalBackward
  explicit SmallInputs(const Call& call)
      : shape(call.shape),
        io(LaneAccess<T, L>::of(shape.storage)),
        pixels(shape.height * shape.width),
        window(shape.window),
        has_key(call.key.data != nullptr),
        has_relative(call.rel_row != nullptr),
        query_map_(call.query),
        key_map_(call.key),
        value_map_(call.value),
        all_rel_row_(static_cast<const T*>(call.rel_row)),
        all_rel_col_(static_cast<const T*>(call.rel_col)) {}

  void lay_out(Arena& arena) {
    const int64_t D = shape.head_dim;
    query = arena.take<T>(pixels * D * L);
    key = arena.take<T>(has_key ? pixels * D * L : 0);
    value = arena.take<T>(pixels * shape.value_dim * L);
    terms = arena.take<T>(2 * shape.width * window * L);
    rel_row = arena.take<T>(has_relative ? D * window * L : 0);
    rel_col = rel_row + D / 2 * window * L;
    softmax_scratch = arena.take<T>(SmallSoftmax<T, L>::elements(window));
  }

  // Pack the inputs of a group. Returns its nonfinite_lanes.
  uint32_t pack(const LaneGroup& group) {
    const int64_t D = shape.head_dim, E = shape.value_dim, H = shape.height, W = shape.width;
    io.pack(query_map_, group, D, H, W, static_cast<T>(shape.scale * kLog2e), query);
    io.pack(value_map_, group, E, H, W, 1, value);
    uint32_t nonfinite = nonfinite_lanes<T, L>(query, pixels * D) | nonfinite_lanes<T, L>(value, pixels * E);
    if (has_key) {
      io.pack(key_map_, group, D, H, W, 1, key);
      nonfinite |= nonfinite_lanes<T, L>(key, pixels * D);
    }
    has_new_heads = group.head(0) != loaded_head_;
    if (has_new_heads)
      loaded_head_ = group.count < L ? -1 : group.head(0);  // lanes of the last group may repeat a head
    if (has_relative) {
      if (has_new_heads) load_embeddings(group);
      nonfinite |= nonfinite_lanes<T, L>(rel_row, D * window);
    }
    return nonfinite;
  }

  // terms[x][2 * K]: the row terms, then the column terms of the queries of row y.
  void relative_terms(int64_t y) {
    if (!has_relative) return;
    const int64_t D = shape.head_dim, W = shape.width, K = window, half = D / 2;
    const T* row = query + y * W * D * L;
    product<T, L>(W, K, {1, half}, {row, D, 0, 1}, {rel_row, half, 0, 1}, Store<T>{terms, 2 * K, 1});
    product<T, L>(W, K, {1, half}, {row + half * L, D, 0, 1}, {rel_col, half, 0, 1}, Store<T>{terms + K * L, 2 * K, 1});
  }

  const sasa::LocalShape& shape;
  const LaneAccess<T, L> io;
  const int64_t pixels, window;
  const bool has_key, has_relative;
  bool has_new_heads = true;  // whether the last `pack` had other heads than the one before
  T *query, *key, *value, *terms, *rel_row, *rel_col, *softmax_scratch;

 private:
  // Embeddings (heads, K, D / 2) to [K][D / 2][lanes].
  void load_embeddings(const LaneGroup& group) {
    const int64_t count = shape.head_dim / 2 * window;
    for (int lane = 0; lane < L; ++lane)
      for (int64_t i = 0; i < count; ++i) {
        rel_row[i * L + lane] = all_rel_row_[group.head(lane) * count + i];
        rel_col[i * L + lane] = all_rel_col_[group.head(lane) * count + i];
      }
  }

  const Map &query_map_, &key_map_, &value_map_;
  const T *const all_rel_row_, *const all_rel_col_;  // of all heads
  int64_t loaded_head_ = -1;
};

// Whether the kernels for small maps are faster. Compares the vector operations per channel (pairs of pixels of the map
// here; one tile per row there), divided by the number of threads that find work: four are assumed, because results
// must not depend on how many there are. The factor 5 / 4 accounts for other costs.
template <class T, int L>
bool small_is_faster(const sasa::LocalShape& shape) {
  if (shape.height > kSmallSide || shape.width > kSmallSide) return false;
  int64_t rows = 0;
  for (int64_t y = 0; y < shape.height; ++y) rows += Visible(y, shape.height, shape.window).count();
  const int64_t columns = shape.width < shape.window + 2 ? shape.width : shape.window + 2;
  const int64_t problems = shape.batch * shape.heads, groups = (problems + L - 1) / L;
  const int64_t here = groups * rows * shape.width * columns,
                there = problems * shape.height * shape.window * shape.window;
  const auto threads = [](int64_t tasks) { return tasks < 4 ? tasks : 4; };
  return 5 * here * threads(problems) < 4 * there * threads(groups);
}

// Call run(lanes) with the lanes of a vector, or half of them where those suffice.
template <class T, class F>
SASA_INLINE void with_small_lanes(const sasa::LocalShape& shape, F&& run) {
  constexpr int L = kLanes<T>;
  if constexpr (kVectorBytes == 64 && std::is_same_v<T, float>) {
    if (shape.batch * shape.heads <= L / 2) return run(Int<L / 2>{});
  }
  run(Int<L>{});
}

// Run tasks of type Task on groups [first, last), and fallback(image, head) for problems that are not finite.
template <class Task, int L, class Call, class F>
void run_small_groups(const Call& call, int64_t first, int64_t last, F&& fallback) {
  const int64_t heads = call.shape.heads, problems = call.shape.batch * heads;
  for (int64_t group = first; group < last;) {
    uint32_t nonfinite = 0;
    {
      Task task(call);
      for (; group < last && nonfinite == 0; ++group) {
        const int64_t left = problems - group * L;
        nonfinite = task.run({group * L, left < L ? left : L, heads});
      }
    }
    for (int lane = 0; lane < L; ++lane) {  // the fallback reuses the scratch memory of the task
      const int64_t problem = (group - 1) * L + lane;
      if ((nonfinite >> lane & 1) && problem < problems) fallback(problem / heads, problem % heads);
    }
  }
}

// Run a call with the kernels for small maps if they are faster. Returns whether they were.
template <class T, template <class, int> class Task, class Call, class F>
bool run_small(const Call& call, const sasa::Parallel& threads, F&& fallback) {
  bool done = false;
  with_small_lanes<T>(call.shape, [&](auto lanes) {
    constexpr int L = decltype(lanes)::value;
    if (!small_is_faster<T, L>(call.shape)) return;
    done = true;
    const int64_t groups = (call.shape.batch * call.shape.heads + L - 1) / L;
    parallel(threads, groups,
             [&](int64_t first, int64_t last) { run_small_groups<Task<T, L>, L>(call, first, last, fallback); });
  });
  return done;
}

}  // namespace
