// Eq. 3 backward on small maps. A task is one group of problems, a head of an image in each lane; it keeps p and ds of
// all pairs of pixels.
#pragma once
#include "local_backward.h"
#include "small_inputs.h"

namespace {

template <class T, int L>
class SmallBackward {
 public:
  explicit SmallBackward(const LocalBackward& call) : call_(call), shape_(call.shape), in_(call) {
    allocate_scratch([this](Arena& arena) { lay_out(arena); });
  }

  // Returns the lanes whose inputs are not all finite; their results are not valid.
  uint32_t run(const LaneGroup& group) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, H = shape_.height, W = shape_.width;
    uint32_t nonfinite = in_.pack(group);
    in_.io.pack(call_.grad_output, group, E, H, W, 1, grad_);
    nonfinite |= nonfinite_lanes<T, L>(grad_, in_.pixels * E);
    if (in_.has_relative) clear(grad_relative_, D * in_.window * L);
    for (int64_t y = 0; y < H; ++y) query_row(y);
    in_.io.unpack(result_, call_.grad_query, group, D, H, W);
    if (in_.has_key) gather(group, grad_logits_, in_.query, D, static_cast<T>(kLn2), call_.grad_key);
    gather(group, weights_, grad_, E, 1, call_.grad_value);
    if (in_.has_relative) write_relative(group);
    return nonfinite;
  }

 private:
  void lay_out(Arena& arena) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, P = in_.pixels;
    in_.lay_out(arena);
    grad_ = arena.take<T>(P * E * L);
    result_ = arena.take<T>(P * (D > E ? D : E) * L);
    weights_ = arena.take<T>(P * P * L);
    grad_logits_ = arena.take<T>(P * P * L);
    grad_relative_ = arena.take<T>(in_.has_relative ? D * in_.window * L : 0);
  }

  // p, ds and dq of the queries of row y, and their contribution to the gradients of the embeddings.
  void query_row(int64_t y) {
    const int64_t D = shape_.head_dim, W = shape_.width, half = D / 2, K = in_.window, P = in_.pixels;
    const Visible down(y, shape_.height, K);
    in_.relative_terms(y);
    clear(weights_ + y * W * P * L, W * P * L);
    clear(grad_logits_ + y * W * P * L, W * P * L);
    for (int64_t x = 0; x < W; x += kQueryBlock) query_block(y, x, W - x < kQueryBlock ? W - x : kQueryBlock, down);
    if (!in_.has_relative) return;
    // Now in_.terms holds the sums of ds over rows and over columns: dq += scale sum ds r, dr += sum ds q.
    const T scale = static_cast<T>(shape_.scale), unit = static_cast<T>(kLn2);
    for (int64_t axis = 0; axis < 2; ++axis) {
      const T *query = in_.query + (y * W * D + axis * half) * L, *sums = in_.terms + axis * K * L;
      const T* embedding = axis == 0 ? in_.rel_row : in_.rel_col;
      T *to = result_ + (y * W * D + axis * half) * L, *grad = grad_relative_ + axis * half * K * L;
      product<T, L>(W, half, {1, K}, {sums, 2 * K, 0, 1}, {embedding, 1, 0, half},
                    ScaleAndStore<T>{to, D, 1, scale, true});
      product<T, L>(K, half, {1, W}, {sums, 1, 0, 2 * K}, {query, 1, 0, D},
                    ScaleAndStore<T>{grad, half, 1, unit, true});
    }
  }

  // `queries` queries of row y from x on, which share their keys.
  void query_block(int64_t y, int64_t x, int64_t queries, const Visible& down) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, W = shape_.width;
    const int64_t begin = Visible(x, W, in_.window).begin, end = Visible(x + queries - 1, W, in_.window).end,
                  first = y * W + x;
    for (int64_t row = down.begin; row < down.end; ++row) {
      const int64_t key = row * W + begin, at = (first * in_.pixels + key) * L;
      if (in_.has_key)
        product<T, L>(queries, end - begin, {1, D}, {in_.query + first * D * L, D, 0, 1},
                      {in_.key + key * D * L, D, 0, 1}, Store<T>{weights_ + at, in_.pixels, 1});
      product<T, L>(queries, end - begin, {1, E}, {grad_ + first * E * L, E, 0, 1}, {in_.value + key * E * L, E, 0, 1},
                    Store<T>{grad_logits_ + at, in_.pixels, 1});
    }
    for (int64_t i = 0; i < queries; ++i) differentiate_softmax(down, Visible(x + i, W, in_.window), first + i, x + i);
    T* to = result_ + first * D * L;
    if (!in_.has_key) return clear(to, queries * D * L);
    product<T, L>(queries, D, {down.count(), end - begin},
                  {grad_logits_ + (first * in_.pixels + down.begin * W + begin) * L, in_.pixels, W, 1},
                  {in_.key + (down.begin * W + begin) * D * L, 1, W * D, D},
                  ScaleAndStore<T>{to, D, 1, static_cast<T>(shape_.scale), false});
  }

  // Logits to p and dp to ds, for one query; the sums of ds replace its relative terms.
  void differentiate_softmax(const Visible& down, const Visible& across, int64_t query, int64_t x) {
    using V = Vec<T, L>;
    const int64_t W = shape_.width, K = in_.window;
    T *weights = weights_ + query * in_.pixels * L, *grad_logits = grad_logits_ + query * in_.pixels * L,
      *sums = in_.terms + 2 * x * K * L;
    SmallSoftmax<T, L> softmax(K, shape_.mask, in_.softmax_scratch);
    softmax.normalize(down, across, W, in_.has_relative ? sums : nullptr, weights);
    V delta = {};
    for (int64_t row = down.begin; row < down.end; ++row)
      for (int64_t column = across.begin; column < across.end; ++column)
        delta += load<T, L>(weights + (row * W + column) * L) * load<T, L>(grad_logits + (row * W + column) * L);
    clear(sums, 2 * K * L);
    for (int64_t row = down.begin; row < down.end; ++row) {
      V row_sum = {};
      for (int64_t column = 0; column < W; ++column) {
        const int64_t at = (row * W + column) * L;
        if (column < across.begin || column >= across.end) {
          store<T, L>(grad_logits + at, V{});
          continue;
        }
        const V ds = load<T, L>(weights + at) * (load<T, L>(grad_logits + at) - delta);
        store<T, L>(grad_logits + at, ds);
        row_sum += ds;
        T* column_sum = sums + (K + across.first + column - across.begin) * L;
        store<T, L>(column_sum, load<T, L>(column_sum) + ds);
      }
      store<T, L>(sums + (down.first + row - down.begin) * L, row_sum);
    }
    if (in_.has_relative) softmax.add_outside(delta, sums);
  }

  // dk or dv: for each key the sum over the queries that see it, which are those in its own window (windows are symmetric).
  void gather(const LaneGroup& group, const T* weights, const T* sources, int64_t channels, T factor, const Map& to) {
    const int64_t W = shape_.width;
    for (int64_t y = 0; y < shape_.height; ++y) {
      const Visible down(y, shape_.height, in_.window);
      for (int64_t x = 0; x < W; x += kQueryBlock) {
        const int64_t keys = W - x < kQueryBlock ? W - x : kQueryBlock;
        const int64_t begin = Visible(x, W, in_.window).begin, end = Visible(x + keys - 1, W, in_.window).end;
        const int64_t query = down.begin * W + begin;
        product<T, L>(keys, channels, {down.count(), end - begin},
                      {weights + (query * in_.pixels + y * W + x) * L, 1, W * in_.pixels, in_.pixels},
                      {sources + query * channels * L, 1, W * channels, channels},
                      ScaleAndStore<T>{result_ + (y * W + x) * channels * L, channels, 1, factor, false});
      }
    }
    in_.io.unpack(result_, to, group, channels, shape_.height, W);
  }

  void write_relative(const LaneGroup& group) {
    const int64_t count = shape_.head_dim / 2 * in_.window;
    for (int64_t lane = 0; lane < group.count; ++lane)
      for (int64_t i = 0; i < count; ++i) {
        static_cast<T*>(call_.grad_row)[group.problem(lane) * count + i] = grad_relative_[i * L + lane];
        static_cast<T*>(call_.grad_col)[group.problem(lane) * count + i] = grad_relative_[(count + i) * L + lane];
      }
  }

  const LocalBackward& call_;
  const LocalShape& shape_;
  SmallInputs<T, L> in_;
  T *grad_, *result_, *weights_, *grad_logits_, *grad_relative_;
};

}  // namespace
