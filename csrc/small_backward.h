// Eq. 3 backward on small maps: a task takes one group of problems, a head of an image in each lane, and keeps p and ds
// of all pairs of its pixels.
#pragma once
#include "local_backward.h"
#include "small_forward.h"

namespace {

template <class T, int L>
class SmallBackward {
 public:
  explicit SmallBackward(const LocalBackward& call)
      : call_(call),
        shape_(call.shape),
        io_(LaneAccess<T, L>::of(call.shape.storage)),
        pixels_(shape_.height * shape_.width),
        window_(shape_.window) {
    Arena sizes(nullptr);
    lay_out(sizes);
    Arena arena(sasa::scratch(sizes.used()));
    lay_out(arena);
  }

  // Returns the lanes whose numbers are not all finite, of which nothing is to be believed.
  uint32_t run(const LaneGroup& group) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, H = shape_.height, W = shape_.width;
    io_.pack(call_.query, group, D, H, W, static_cast<T>(shape_.scale * kLog2e), query_);
    io_.pack(call_.value, group, E, H, W, 1, value_);
    io_.pack(call_.grad_output, group, E, H, W, 1, grad_);
    uint32_t bad = bad_lanes<T, L>(query_, pixels_ * D) | bad_lanes<T, L>(value_, pixels_ * E);
    bad |= bad_lanes<T, L>(grad_, pixels_ * E);
    if (call_.key.data) {
      io_.pack(call_.key, group, D, H, W, 1, key_);
      bad |= bad_lanes<T, L>(key_, pixels_ * D);
    }
    if (call_.rel_row) {
      take_relative(group);
      bad |= bad_lanes<T, L>(rel_row_, D * window_);
    }
    for (int64_t y = 0; y < H; ++y) query_row(y);
    io_.unpack(result_, call_.grad_query, group, D, H, W);
    if (call_.key.data) gather(group, slopes_, query_, D, static_cast<T>(kLn2), call_.grad_key);
    gather(group, weights_, grad_, E, 1, call_.grad_value);
    if (call_.rel_row) write_relative(group);
    return bad;
  }

 private:
  static constexpr int64_t kTogether = 4;  // pixels

  void lay_out(Arena& arena) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim;
    query_ = arena.take<T>(pixels_ * D * L);
    key_ = arena.take<T>(call_.key.data ? pixels_ * D * L : 0);
    value_ = arena.take<T>(pixels_ * E * L);
    grad_ = arena.take<T>(pixels_ * E * L);
    result_ = arena.take<T>(pixels_ * (D > E ? D : E) * L);
    weights_ = arena.take<T>(pixels_ * pixels_ * L);
    slopes_ = arena.take<T>(pixels_ * pixels_ * L);
    terms_ = arena.take<T>(2 * shape_.width * window_ * L);
    rel_row_ = arena.take<T>(call_.rel_row ? D * window_ * L : 0);
    rel_col_ = rel_row_ + D / 2 * window_ * L;
    grad_rel_ = arena.take<T>(call_.rel_row ? D * window_ * L : 0);
    scratch_ = arena.take<T>(SmallSoftmax<T, L>::elements(window_));
  }

  void take_relative(const LaneGroup& group) {
    const int64_t count = shape_.head_dim / 2 * window_;
    clear(grad_rel_, 2 * count * L);
    if (group.head(0) == taken_) return;
    taken_ = group.count < L ? -1 : group.head(0);  // the last group's lanes may repeat a head
    take_lanes_relative<T, L>(static_cast<const T*>(call_.rel_row), group, count, rel_row_);
    take_lanes_relative<T, L>(static_cast<const T*>(call_.rel_col), group, count, rel_col_);
  }

  // p, ds and dq of the queries of row y, and what they give to the embeddings.
  void query_row(int64_t y) {
    const int64_t D = shape_.head_dim, W = shape_.width, half = D / 2, K = window_;
    const Seen down(y, shape_.height, K);
    const T* query = query_ + y * W * D * L;
    if (call_.rel_row) {
      product<T, L>(W, K, {1, half}, {query, D, 0, 1}, {rel_row_, half, 0, 1}, {terms_, 2 * K, 1, 1, false});
      product<T, L>(W, K, {1, half}, {query + half * L, D, 0, 1}, {rel_col_, half, 0, 1},
                    {terms_ + K * L, 2 * K, 1, 1, false});
    }
    clear(weights_ + y * W * pixels_ * L, W * pixels_ * L);
    clear(slopes_ + y * W * pixels_ * L, W * pixels_ * L);
    for (int64_t x = 0; x < W; x += kTogether) query_block(y, x, W - x < kTogether ? W - x : kTogether, down);
    if (!call_.rel_row) return;
    // terms_ now holds the sums of ds over rows and over columns: dq += scale sum ds r, dr += sum ds q.
    const T scale = static_cast<T>(shape_.scale);
    T* to = result_ + y * W * D * L;
    product<T, L>(W, half, {1, K}, {terms_, 2 * K, 0, 1}, {rel_row_, 1, 0, half}, {to, D, 1, scale, true});
    product<T, L>(W, half, {1, K}, {terms_ + K * L, 2 * K, 0, 1}, {rel_col_, 1, 0, half},
                  {to + half * L, D, 1, scale, true});
    const T unit = static_cast<T>(kLn2);
    product<T, L>(K, half, {1, W}, {terms_, 1, 0, 2 * K}, {query, 1, 0, D}, {grad_rel_, half, 1, unit, true});
    product<T, L>(K, half, {1, W}, {terms_ + K * L, 1, 0, 2 * K}, {query + half * L, 1, 0, D},
                  {grad_rel_ + half * K * L, half, 1, unit, true});
  }

  // Some queries of row y from x on, which share their keys.
  void query_block(int64_t y, int64_t x, int64_t queries, const Seen& down) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, W = shape_.width;
    const int64_t begin = Seen(x, W, window_).begin, end = Seen(x + queries - 1, W, window_).end, first = y * W + x;
    for (int64_t row = down.begin; row < down.end; ++row) {
      const int64_t key = row * W + begin, at = (first * pixels_ + key) * L;
      if (call_.key.data)
        product<T, L>(queries, end - begin, {1, D}, {query_ + first * D * L, D, 0, 1}, {key_ + key * D * L, D, 0, 1},
                      {weights_ + at, pixels_, 1, 1, false});
      product<T, L>(queries, end - begin, {1, E}, {grad_ + first * E * L, E, 0, 1}, {value_ + key * E * L, E, 0, 1},
                    {slopes_ + at, pixels_, 1, 1, false});
    }
    for (int64_t i = 0; i < queries; ++i) differentiate_softmax(down, Seen(x + i, W, window_), first + i, x + i);
    T* to = result_ + first * D * L;
    if (!call_.key.data) return clear(to, queries * D * L);
    product<T, L>(queries, D, {down.count(), end - begin},
                  {slopes_ + (first * pixels_ + down.begin * W + begin) * L, pixels_, W, 1},
                  {key_ + (down.begin * W + begin) * D * L, 1, W * D, D},
                  {to, D, 1, static_cast<T>(shape_.scale), false});
  }

  // Logits to p and dp to ds, of one query; sums of ds take the place of its terms.
  void differentiate_softmax(const Seen& down, const Seen& across, int64_t query, int64_t x) {
    using V = Vec<T, L>;
    const int64_t W = shape_.width, K = window_;
    T *weights = weights_ + query * pixels_ * L, *slopes = slopes_ + query * pixels_ * L,
      *sums = terms_ + 2 * x * K * L;
    SmallSoftmax<T, L> softmax(K, shape_.mask, scratch_);
    softmax.weigh(down, across, W, call_.rel_row ? sums : nullptr, weights);
    V delta = {};
    for (int64_t row = down.begin; row < down.end; ++row)
      for (int64_t column = across.begin; column < across.end; ++column)
        delta += load<T, L>(weights + (row * W + column) * L) * load<T, L>(slopes + (row * W + column) * L);
    clear(sums, 2 * K * L);
    for (int64_t row = down.begin; row < down.end; ++row) {
      V row_sum = {};
      for (int64_t column = 0; column < W; ++column) {
        const int64_t at = (row * W + column) * L;
        if (column < across.begin || column >= across.end) {
          store<T, L>(slopes + at, V{});
          continue;
        }
        const V ds = load<T, L>(weights + at) * (load<T, L>(slopes + at) - delta);
        store<T, L>(slopes + at, ds);
        row_sum += ds;
        T* column_sum = sums + (K + across.first + column - across.begin) * L;
        store<T, L>(column_sum, load<T, L>(column_sum) + ds);
      }
      store<T, L>(sums + (down.first + row - down.begin) * L, row_sum);
    }
    if (call_.rel_row) softmax.add_slopes_beyond(delta, sums);
  }

  // dk or dv: for each key the sum over the queries that see it, windows being symmetric.
  void gather(const LaneGroup& group, const T* weights, const T* sources, int64_t channels, T factor, const Map& to) {
    const int64_t W = shape_.width;
    for (int64_t y = 0; y < shape_.height; ++y) {
      const Seen down(y, shape_.height, window_);
      for (int64_t x = 0; x < W; x += kTogether) {
        const int64_t keys = W - x < kTogether ? W - x : kTogether;
        const int64_t begin = Seen(x, W, window_).begin, end = Seen(x + keys - 1, W, window_).end;
        const int64_t query = down.begin * W + begin;
        product<T, L>(keys, channels, {down.count(), end - begin},
                      {weights + (query * pixels_ + y * W + x) * L, 1, W * pixels_, pixels_},
                      {sources + query * channels * L, 1, W * channels, channels},
                      {result_ + (y * W + x) * channels * L, channels, 1, factor, false});
      }
    }
    io_.unpack(result_, to, group, channels, shape_.height, W);
  }

  void write_relative(const LaneGroup& group) {
    const int64_t count = shape_.head_dim / 2 * window_;
    for (int64_t lane = 0; lane < group.count; ++lane)
      for (int64_t i = 0; i < count; ++i) {
        static_cast<T*>(call_.grad_row)[group.problem(lane) * count + i] = grad_rel_[i * L + lane];
        static_cast<T*>(call_.grad_col)[group.problem(lane) * count + i] = grad_rel_[(count + i) * L + lane];
      }
  }

  const LocalBackward& call_;
  const LocalShape& shape_;
  const LaneAccess<T, L> io_;
  const int64_t pixels_, window_;
  int64_t taken_ = -1;
  T *query_, *key_, *value_, *grad_, *result_, *weights_, *slopes_, *terms_, *rel_row_, *rel_col_, *grad_rel_,
      *scratch_;
};

// Whether it was done this way.
template <class T>
bool small_backward(const LocalBackward& call, const sasa::Parallel& threads) {
  bool done = false;
  with_small_lanes<T>(call.shape, [&](auto lanes) {
    constexpr int L = decltype(lanes)::value;
    if (!small_is_faster<T, L>(call.shape)) return;
    done = true;
    const int64_t heads = call.shape.heads, groups = (call.shape.batch * heads + L - 1) / L;
    parallel(threads, groups, [&](int64_t first, int64_t last) {
      run_small<SmallBackward<T, L>, L>(
          call, first, last, [&](int64_t problem) { BackwardTask<T, 0>(call).run(problem / heads, problem % heads); });
    });
  });
  return done;
}

void local_backward(const LocalBackward& call, const sasa::Parallel& threads) {
  if (call.shape.storage == Storage::float64) {
    if (!small_backward<double>(call, threads)) local_backward_as<double>(call, threads);
  } else {
    if (!small_backward<float>(call, threads)) local_backward_as<float>(call, threads);
  }
}

}  // namespace
