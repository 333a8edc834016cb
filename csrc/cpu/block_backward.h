// Attention inside blocks, backward. The softmax weights are computed again. The gradient of the output is given as a
// map, or by the gradients of the pooled results:
//
//     dy = (grad of the extreme, at its position) + grad of the sum + 2 y * grad of the sum of squares
#pragma once
#include "block_inputs.h"

namespace {

using sasa::BlockBackward;

template <class T>
class BlockBackwardTask {
 public:
  explicit BlockBackwardTask(const BlockBackward& call)
      : call_(call), shape_(call.shape), in_(call), offsets_(2 * shape_.block - 1) {
    allocate_scratch([this](Arena& arena) { lay_out(arena); });
    in_.prepare();
    if (call_.grad_output.data) in_.rows(grad_rows_, in_.channels).clear_all();
    if (call_.grad_extreme.data) clear(extreme_row_, in_.channels * pooled_step());
  }

  void run(int64_t b, int64_t strip) {
    clear(grad_weights_, shape_.heads * head_vectors() * kLanes<T>);
    const int64_t begin = strip * sasa::kStripBlocks;
    const int64_t end = begin + sasa::kStripBlocks < in_.grid.down ? begin + sasa::kStripBlocks : in_.grid.down;
    for (int64_t row = begin; row < end; ++row) row_of_blocks(b, row);
    write_weight_gradients(b * sasa::block_strips(shape_) + strip);
  }

 private:
  void lay_out(Arena& arena) {
    const int64_t C = shape_.channels, E = shape_.value_dim, P = in_.positions, S = shape_.block, L = kLanes<T>;
    const int64_t image_row = S * C * in_.grid.step, output_row = S * in_.channels * in_.grid.step;
    in_.lay_out(arena);
    grad_weights_ = arena.take<T>(shape_.heads * head_vectors() * L);
    sums_ = arena.take<T>(head_vectors());
    grad_image_rows_ = arena.take<T>(call_.grad_image.data ? image_row : 0);
    grad_value_rows_ = arena.take<T>(in_.value_given ? output_row : 0);
    grad_rows_ = arena.take<T>(call_.grad_output.data ? output_row : 0);
    extreme_row_ = arena.take<T>(call_.grad_extreme.data ? in_.channels * pooled_step() : 0);
    grad_pixels_ = arena.take<T>(P * C * L);
    grads_ = arena.take<T>(P * E * L);
    grad_logits_ = arena.take<T>(P * P * L);
    grad_values_ = arena.take<T>(P * E * L);
  }

  int64_t pooled_step() const { return round_up(in_.grid.across, 16); }

  // The gradients of one head, a vector for each number: of M, A_row, A_col and the matrices of the values.
  int64_t head_vectors() const { return shape_.channels * (shape_.channels + 2 * offsets_ + values_size()); }
  int64_t values_size() const { return call_.w_value ? in_.positions * shape_.value_dim : 0; }
  T* grad_content(int64_t n) const { return grad_weights_ + n * head_vectors() * kLanes<T>; }
  T* grad_offsets(int64_t n, bool columns) const {
    return grad_content(n) + shape_.channels * (shape_.channels + (columns ? offsets_ : 0)) * kLanes<T>;
  }
  T* grad_matrices(int64_t n) const { return grad_offsets(n, true) + offsets_ * shape_.channels * kLanes<T>; }

  void row_of_blocks(int64_t b, int64_t row) {
    const int64_t y = row * shape_.block;
    in_.pack(b, y);
    if (call_.grad_output.data) in_.rows(grad_rows_, in_.channels).pack(in_.io, call_.grad_output, b, y);
    if (call_.grad_extreme.data)
      in_.io.pack({call_.grad_extreme, b, 0, in_.channels, row, in_.grid.across}, 1, extreme_row_, pooled_step());
    each_vector<T>(in_.grid.across, [&](int64_t x, auto lanes) { tile<decltype(lanes)::value>(b, row, x); });
    if (call_.grad_image.data) in_.rows(grad_image_rows_, shape_.channels).unpack(in_.io, call_.grad_image, b, y);
    if (in_.value_given) in_.rows(grad_value_rows_, in_.channels).unpack(in_.io, call_.grad_value, b, y);
  }

  template <int L>
  void tile(int64_t b, int64_t row, int64_t x) {
    const int64_t S = shape_.block, C = shape_.channels, E = shape_.value_dim, P = in_.positions;
    const BlockPlace place{row * S, x * S, shape_.height, shape_.width, S};
    in_.template load_tile<L>(x * S);
    clear(grad_pixels_, P * C * L);
    for (int64_t n = 0; n < shape_.heads; ++n) {
      const HeadWeights<T> head = in_.weights.head(n);
      in_.template attend<L>(head, place, nullptr);
      grad_of_outputs<L>(b, row, n, place, x);
      const Operand<T> weights_transposed{in_.tile_weights, 1, 0, P};
      product<T, L>(P, P, {1, E}, {grads_, E, 0, 1}, {in_.values, E, 0, 1}, Store<T>{grad_logits_, P, 1});  // dy . v
      product<T, L>(P, E, {1, P}, weights_transposed, {grads_, 1, 0, E}, Store<T>{grad_values_, E, 1});     // p^T dy
      for (int64_t s = 0; !place.whole(L) && s < P; ++s) place.clear_outside<T, L>(s, E, grad_values_ + s * E * L);
      differentiate_softmax<L>(place);
      grad_of_logits<L>(head);
      grad_of_values<L>(n, x);
    }
    if (call_.grad_image.data) in_.rows(grad_image_rows_, C).template store_tile<L>(0, C, x * S, grad_pixels_);
  }

  // dy of the outputs of head n, (P, E).
  template <int L>
  void grad_of_outputs(int64_t b, int64_t row, int64_t n, const BlockPlace& place, int64_t x) {
    const int64_t S = shape_.block, E = shape_.value_dim, P = in_.positions;
    if (call_.grad_output.data)  // the rows are zeros outside the image
      return in_.rows(grad_rows_, in_.channels).template load_tile<L>(n * E, E, x * S, grads_);
    // Pooled: y is computed again, and its gradient replaces it.
    product<T, L>(P, E, {1, P}, {in_.tile_weights, P, 0, 1}, {in_.values, 1, 0, E}, Store<T>{grads_, E, 1});
    const bool whole = place.whole(L);
    for (int64_t e = 0; e < E; ++e) {
      const int64_t channel = n * E + e;
      const Vec<T, L> extreme = load<T, L>(extreme_row_ + channel * pooled_step() + x);
      const T sum = static_cast<T>(call_.grad_sums[channel]);
      const T square = static_cast<T>(2 * call_.grad_sums[in_.channels + channel]);
      Vec<IntFor<T>, L> at{};
      const uint8_t* positions = row_of<const uint8_t>(call_.position, b, channel, row);
      for (int64_t lane = 0; lane < L; ++lane)
        at[lane] = x + lane < in_.grid.across ? positions[(x + lane) * call_.position.stride[3]] : 0;
      for (int64_t p = 0; p < P; ++p) {
        T* y = grads_ + (p * E + e) * L;
        Vec<T, L> grad = load<T, L>(y) * square + sum;
        grad += at == static_cast<IntFor<T>>(p) ? extreme : Vec<T, L>{};
        if (!whole) grad = place.inside<T, L>(p) ? grad : Vec<T, L>{};
        store<T, L>(y, grad);
      }
    }
  }

  // ds = p (dp - sum p dp), in place of dp.
  template <int L>
  void differentiate_softmax(const BlockPlace& place) {
    using V = Vec<T, L>;
    const int64_t P = in_.positions;
    const bool whole = place.whole(L);
    for (int64_t p = 0; p < P; ++p) {
      T *weights = in_.tile_weights + p * P * L, *grad_logits = grad_logits_ + p * P * L;
      V delta = {};
      for (int64_t s = 0; s < P; ++s) delta += load<T, L>(weights + s * L) * load<T, L>(grad_logits + s * L);
      for (int64_t s = 0; s < P; ++s)
        store<T, L>(grad_logits + s * L, load<T, L>(weights + s * L) * (load<T, L>(grad_logits + s * L) - delta));
      if (whole) continue;
      place.clear_outside<T, L>(p, P, grad_logits);
      for (int64_t s = 0; s < P; ++s)
        store<T, L>(grad_logits + s * L, place.inside<T, L>(s) ? load<T, L>(grad_logits + s * L) : V{});
    }
  }

  // dM, dA and the gradient of the pixels from those of the logits x_p . (M x_s + A_row + A_col).
  template <int L>
  void grad_of_logits(const HeadWeights<T>& head) {
    for (int64_t p = 0; p < in_.positions; ++p) {
      if (head.content) grad_of_content<L>(head, p);
      if (head.rows) grad_of_relative<L>(head, p);
    }
  }

  // The terms x_p . M x_s of query p.
  template <int L>
  void grad_of_content(const HeadWeights<T>& head, int64_t p) {
    using V = Vec<T, L>;
    const int64_t C = shape_.channels, P = in_.positions;
    const bool image = call_.grad_image.data != nullptr;
    const T unit = static_cast<T>(kLn2);  // M is in units of log2(e)
    const T *pixels = in_.pixels, *pixel = pixels + p * C * L, *grad_logits = grad_logits_ + p * P * L;
    T *grad_pixels = grad_pixels_, *grad = grad_pixels + p * C * L, *totals = grad_content(head.head);
    T* weighted = in_.scratch;  // sum over s of ds x_s, (C,)
    for (int64_t c = 0; c < C; ++c) {
      V sum = {};
      for (int64_t s = 0; s < P; ++s) sum += load<T, L>(grad_logits + s * L) * load<T, L>(pixels + (s * C + c) * L);
      store<T, L>(weighted + c * L, sum);
    }
    for (int64_t c = 0; c < C; ++c) {
      V projected = {};  // M^T x_p
      for (int64_t i = 0; i < C; ++i) {
        T* total = totals + (c * C + i) * kLanes<T>;
        store<T, L>(total, load<T, L>(total) + load<T, L>(pixel + c * L) * load<T, L>(weighted + i * L));
        if (!image) continue;
        const V m = load<T, L>(weighted + i * L) * (head.content[c * C + i] * unit);
        store<T, L>(grad + c * L, load<T, L>(grad + c * L) + m);
        projected += load<T, L>(pixel + i * L) * (head.content[i * C + c] * unit);
      }
      for (int64_t s = 0; image && s < P; ++s) {
        T* other = grad_pixels + (s * C + c) * L;
        store<T, L>(other, load<T, L>(other) + load<T, L>(grad_logits + s * L) * projected);
      }
    }
  }

  // The terms x_p . (A_row + A_col) of query p.
  template <int L>
  void grad_of_relative(const HeadWeights<T>& head, int64_t p) {
    using V = Vec<T, L>;
    const int64_t C = shape_.channels, S = shape_.block, P = in_.positions;
    const bool image = call_.grad_image.data != nullptr;
    const T unit = static_cast<T>(kLn2);  // A is in units of log2(e)
    const T *pixel = in_.pixels + p * C * L, *grad_logits = grad_logits_ + p * P * L;
    T *grad = grad_pixels_ + p * C * L, *sums = in_.scratch;  // of ds over each row, then each column, of the block
    clear(sums, 2 * S * L);
    for (int64_t s = 0; s < P; ++s) {
      const V ds = load<T, L>(grad_logits + s * L);
      T *row = sums + s / S * L, *column = sums + (S + s % S) * L;
      store<T, L>(row, load<T, L>(row) + ds);
      store<T, L>(column, load<T, L>(column) + ds);
    }
    for (int64_t t = 0; t < 2 * S; ++t) {
      const int64_t offset = (t < S ? t - p / S : t - S - p % S) + S - 1;
      T* totals = grad_offsets(head.head, t >= S) + offset * C * kLanes<T>;
      const T* relative = (t < S ? head.rows : head.columns) + offset * C;
      const V sum = load<T, L>(sums + t * L);
      for (int64_t c = 0; c < C; ++c) {
        T* total = totals + c * kLanes<T>;
        store<T, L>(total, load<T, L>(total) + sum * load<T, L>(pixel + c * L));
        if (image) store<T, L>(grad + c * L, load<T, L>(grad + c * L) + sum * (relative[c] * unit));
      }
    }
  }

  template <int L>
  void grad_of_values(int64_t n, int64_t x) {
    using V = Vec<T, L>;
    const int64_t C = shape_.channels, E = shape_.value_dim, P = in_.positions, S = shape_.block, N = shape_.heads;
    if (in_.value_given)
      return in_.rows(grad_value_rows_, in_.channels).template store_tile<L>(n * E, E, x * S, grad_values_);
    const bool image = call_.grad_image.data != nullptr;
    const T *pixels = in_.pixels, *grad_values = grad_values_, *matrices = static_cast<const T*>(call_.w_value);
    T *grad_pixels = grad_pixels_, *totals = grad_matrices(n);
    for (int64_t s = 0; s < P; ++s)
      for (int64_t c = 0; c < C; ++c) {
        const V pixel = load<T, L>(pixels + (s * C + c) * L);
        V grad = {};
        for (int64_t e = 0; e < E; ++e) {
          const V dv = load<T, L>(grad_values + (s * E + e) * L);
          T* total = totals + ((s * C + c) * E + e) * kLanes<T>;
          store<T, L>(total, load<T, L>(total) + dv * pixel);
          if (image) grad += dv * matrices[((s * N + n) * E + e) * C + c];
        }
        T* to = grad_pixels + (s * C + c) * L;
        if (image) store<T, L>(to, load<T, L>(to) + grad);
      }
  }

  void write_weight_gradients(int64_t part) {
    const int64_t C = shape_.channels, D = shape_.head_dim, E = shape_.value_dim, N = shape_.heads, P = in_.positions;
    const int64_t half = D / 2;
    auto at = [](void* array, int64_t offset) { return array ? static_cast<T*>(array) + offset : nullptr; };
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t i = 0; i < head_vectors(); ++i) sums_[i] = sum_lanes<T, kLanes<T>>(grad_content(n) + i * kLanes<T>);
      const T *rows = sums_ + C * C, *columns = rows + offsets_ * C, *matrices = columns + offsets_ * C;
      const int64_t relative = part * N * offsets_ * half;
      in_.weights.weight_gradients({sums_, rows, columns, n},
                                   {at(call_.grad_w_query, part * N * D * C), at(call_.grad_w_key, part * N * D * C),
                                    at(call_.grad_row, relative), at(call_.grad_col, relative)});
      T* to = at(call_.grad_w_value, part * P * N * E * C);
      for (int64_t s = 0; to && s < P; ++s)
        for (int64_t e = 0; e < E; ++e)
          for (int64_t c = 0; c < C; ++c) to[((s * N + n) * E + e) * C + c] = matrices[(s * C + c) * E + e];
    }
  }

  const BlockBackward& call_;
  const BlockShape& shape_;
  BlockInputs<T> in_;
  const int64_t offsets_;
  T *grad_weights_, *sums_, *grad_image_rows_, *grad_value_rows_, *grad_rows_, *extreme_row_, *grad_pixels_, *grads_;
  T *grad_logits_, *grad_values_;
};

void block_backward(const BlockBackward& call, const sasa::Parallel& threads) {
  run_strips<BlockBackwardTask>(call, threads);
}

}  // namespace
