// Attention inside blocks, backward. The gradient of the map comes as a map, or as those of what pooling left of it:
// dy = (where the extreme lies) + d sum + 2 y d square. The weights of the softmax are computed again.
#pragma once
#include "block_forward.h"

namespace {

using sasa::BlockBackward;

template <class T>
class BlockBackwardTask {
 public:
  explicit BlockBackwardTask(const BlockBackward& call)
      : call_(call),
        shape_(call.shape),
        io_(RowAccess<T>::of(call.shape.storage)),
        weights_(shape_, call.w_query, call.w_key, call.rel_row, call.rel_col),
        grid_(shape_),
        positions_(shape_.block * shape_.block),
        channels_(shape_.heads * shape_.value_dim),
        offsets_(2 * shape_.block - 1) {
    Arena sizes(nullptr);
    lay_out(sizes);
    Arena arena(sasa::scratch(sizes.used()));
    lay_out(arena);
    weights_.fill(head_weights_);
    rows_of(image_rows_, shape_.channels).clear_all();
    if (call_.value.data) rows_of(value_rows_, channels_).clear_all();
    if (call_.grad_output.data) rows_of(grad_rows_, channels_).clear_all();
    if (call_.grad_extreme.data) clear(extreme_row_, channels_ * pooled_step());
  }

  void run(int64_t b, int64_t strip) {
    clear(grad_weights_, shape_.heads * head_vectors() * kMost);
    const int64_t begin = strip * sasa::kStripBlocks;
    const int64_t end = begin + sasa::kStripBlocks < grid_.down ? begin + sasa::kStripBlocks : grid_.down;
    for (int64_t row = begin; row < end; ++row) row_of_blocks(b, row);
    write_weight_gradients(b * sasa::block_strips(shape_) + strip);
  }

 private:
  static constexpr int64_t kMost = kLanes<T>;

  void lay_out(Arena& arena) {
    const int64_t C = shape_.channels, E = shape_.value_dim, P = positions_, S = shape_.block, step = grid_.step;
    head_weights_ = arena.take<T>(BlockWeights<T>::elements(shape_));
    grad_weights_ = arena.take<T>(shape_.heads * head_vectors() * kMost);
    folded_ = arena.take<T>(head_vectors());
    image_rows_ = arena.take<T>(S * C * step);
    grad_image_rows_ = arena.take<T>(call_.grad_image.data ? S * C * step : 0);
    value_rows_ = arena.take<T>(call_.value.data ? S * channels_ * step : 0);
    grad_value_rows_ = arena.take<T>(call_.value.data ? S * channels_ * step : 0);
    grad_rows_ = arena.take<T>(call_.grad_output.data ? S * channels_ * step : 0);
    extreme_row_ = arena.take<T>(call_.grad_extreme.data ? channels_ * pooled_step() : 0);
    pixels_ = arena.take<T>(P * C * kMost);
    grad_pixels_ = arena.take<T>(P * C * kMost);
    scratch_ = arena.take<T>((P * C + 2 * S) * kMost);
    tile_weights_ = arena.take<T>(P * P * kMost);
    slopes_ = arena.take<T>(P * P * kMost);
    values_ = arena.take<T>(P * E * kMost);
    mixed_ = arena.take<T>(P * E * kMost);
    grad_values_ = arena.take<T>(P * E * kMost);
  }

  BlockRows<T> rows_of(T* memory, int64_t channels) const { return {memory, channels, shape_.block, grid_.step}; }
  int64_t pooled_step() const { return round_up(grid_.across, 16); }

  // Sums of one head, a vector each: of M, A_row, A_col and the values' matrices.
  int64_t head_vectors() const { return shape_.channels * (shape_.channels + 2 * offsets_ + values_size()); }
  int64_t values_size() const { return call_.w_value ? positions_ * shape_.value_dim : 0; }
  T* grad_content(int64_t n) const { return grad_weights_ + n * head_vectors() * kMost; }
  T* grad_offsets(int64_t n, bool columns) const {
    return grad_content(n) + shape_.channels * (shape_.channels + (columns ? offsets_ : 0)) * kMost;
  }
  T* grad_matrices(int64_t n) const { return grad_offsets(n, true) + offsets_ * shape_.channels * kMost; }

  void row_of_blocks(int64_t b, int64_t row) {
    const int64_t y = row * shape_.block, H = shape_.height, W = shape_.width;
    rows_of(image_rows_, shape_.channels).pack(io_, call_.image, b, y, H, W);
    if (call_.value.data) rows_of(value_rows_, channels_).pack(io_, call_.value, b, y, H, W);
    if (call_.grad_output.data) rows_of(grad_rows_, channels_).pack(io_, call_.grad_output, b, y, H, W);
    if (call_.grad_extreme.data)
      io_.pack(call_.grad_extreme, b, 0, channels_, row, grid_.across, 1, extreme_row_, pooled_step());
    across_blocks<T>(grid_.across, [&](int64_t x, auto lanes) { tile<decltype(lanes)::value>(b, row, x); });
    if (call_.grad_image.data) rows_of(grad_image_rows_, shape_.channels).unpack(io_, call_.grad_image, b, y, H, W);
    if (call_.value.data) rows_of(grad_value_rows_, channels_).unpack(io_, call_.grad_value, b, y, H, W);
  }

  template <int L>
  void tile(int64_t b, int64_t row, int64_t x) {
    const int64_t S = shape_.block, C = shape_.channels, E = shape_.value_dim, P = positions_;
    const BlockPlace place{row * S, x * S, shape_.height, shape_.width, S};
    const auto image = rows_of(image_rows_, C), maps = rows_of(value_rows_, channels_);
    take_blocks<T, L>(image.memory, image.size(), image.step, C, S, x * S, pixels_);
    clear(grad_pixels_, P * C * L);
    for (int64_t n = 0; n < shape_.heads; ++n) {
      const HeadWeights<T> head = weights_.head(n, head_weights_);
      block_weights<T, L>(weights_, head, n, shape_, place, pixels_, scratch_, tile_weights_, nullptr);
      if (call_.value.data) {
        take_blocks<T, L>(maps.memory + n * E * maps.step, maps.size(), maps.step, E, S, x * S, values_);
      } else {
        block_values<T, L>(static_cast<const T*>(call_.w_value), n, shape_, place, pixels_, values_);
      }
      grad_of_mixed<L>(b, row, n, place, x);
      lane_product<T, L>(P, E, P, mixed_, E, 1, values_, 1, E, slopes_, P);             // dp = dy . v
      lane_product<T, L>(P, P, E, tile_weights_, 1, P, mixed_, E, 1, grad_values_, E);  // dv = p^T dy
      for (int64_t s = 0; !place.whole(L) && s < P; ++s) place.clear_outside<T, L>(s, E, grad_values_ + s * E * L);
      differentiate_softmax<L>(place);
      grad_of_logits<L>(n, head);
      grad_of_values<L>(n, x);
    }
    if (call_.grad_image.data) {
      const auto to = rows_of(grad_image_rows_, C);
      give_blocks<T, L>(grad_pixels_, C, S, x * S, to.memory, to.size(), to.step);
    }
  }

  // dy of the head's outputs, (P, E), in place of y.
  template <int L>
  void grad_of_mixed(int64_t b, int64_t row, int64_t n, const BlockPlace& place, int64_t x) {
    const int64_t S = shape_.block, E = shape_.value_dim, P = positions_;
    if (call_.grad_output.data) {
      const auto grads = rows_of(grad_rows_, channels_);
      take_blocks<T, L>(grads.memory + n * E * grads.step, grads.size(), grads.step, E, S, x * S, mixed_);
      return;  // beyond the picture the rows are zeros
    }
    lane_product<T, L>(P, P, E, tile_weights_, P, 1, values_, E, 1, mixed_, E);
    const bool whole = place.whole(L);
    for (int64_t e = 0; e < E; ++e) {
      const int64_t channel = n * E + e;
      const Vec<T, L> extreme = load<T, L>(extreme_row_ + channel * pooled_step() + x);
      const T sum = static_cast<T>(call_.grad_sums[channel]);
      const T square = static_cast<T>(2 * call_.grad_sums[channels_ + channel]);
      Vec<IntFor<T>, L> at{};
      const uint8_t* positions = row_of<const uint8_t>(call_.position, b, channel, row);
      for (int64_t lane = 0; lane < L; ++lane)
        at[lane] = x + lane < grid_.across ? positions[(x + lane) * call_.position.stride[3]] : 0;
      for (int64_t p = 0; p < P; ++p) {
        T* y = mixed_ + (p * E + e) * L;
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
    const int64_t P = positions_;
    const bool whole = place.whole(L);
    for (int64_t p = 0; p < P; ++p) {
      T *weights = tile_weights_ + p * P * L, *slopes = slopes_ + p * P * L;
      V delta = {};
      for (int64_t s = 0; s < P; ++s) delta += load<T, L>(weights + s * L) * load<T, L>(slopes + s * L);
      for (int64_t s = 0; s < P; ++s)
        store<T, L>(slopes + s * L, load<T, L>(weights + s * L) * (load<T, L>(slopes + s * L) - delta));
      if (whole) continue;
      place.clear_outside<T, L>(p, P, slopes);
      for (int64_t s = 0; s < P; ++s)
        store<T, L>(slopes + s * L, place.inside<T, L>(s) ? load<T, L>(slopes + s * L) : V{});
    }
  }

  // dM, dA and the pixels' gradient by the logits x_p . (M x_s + A_row + A_col).
  template <int L>
  void grad_of_logits(int64_t n, const HeadWeights<T>& head) {
    using V = Vec<T, L>;
    const int64_t C = shape_.channels, S = shape_.block, P = positions_;
    const bool image = call_.grad_image.data != nullptr;
    const T unit = static_cast<T>(kLn2);  // M and A are in units of log2(e)
    T* seen = scratch_;                   // t_p = sum over s of ds x_s, (C,)
    T* sums = scratch_ + P * C * L;       // of ds over each row, then each column, of the block
    for (int64_t p = 0; p < P; ++p) {
      const T *slopes = slopes_ + p * P * L, *pixel = pixels_ + p * C * L;
      T* grad = grad_pixels_ + p * C * L;
      if (head.content) {
        for (int64_t c = 0; c < C; ++c) {
          V sum = {};
          for (int64_t s = 0; s < P; ++s) sum += load<T, L>(slopes + s * L) * load<T, L>(pixels_ + (s * C + c) * L);
          store<T, L>(seen + c * L, sum);
        }
        for (int64_t c = 0; c < C; ++c) {
          V asked = {};  // M^T x_p
          for (int64_t i = 0; i < C; ++i) {
            T* total = grad_content(n) + (c * C + i) * kMost;
            store<T, L>(total, load<T, L>(total) + load<T, L>(pixel + c * L) * load<T, L>(seen + i * L));
            if (!image) continue;
            const V m = load<T, L>(seen + i * L) * (head.content[c * C + i] * unit);
            store<T, L>(grad + c * L, load<T, L>(grad + c * L) + m);
            asked += load<T, L>(pixel + i * L) * (head.content[i * C + c] * unit);
          }
          for (int64_t s = 0; image && s < P; ++s) {
            T* other = grad_pixels_ + (s * C + c) * L;
            store<T, L>(other, load<T, L>(other) + load<T, L>(slopes + s * L) * asked);
          }
        }
      }
      if (!head.rows) continue;
      clear(sums, 2 * S * L);
      for (int64_t s = 0; s < P; ++s) {
        const V ds = load<T, L>(slopes + s * L);
        T *row = sums + s / S * L, *column = sums + (S + s % S) * L;
        store<T, L>(row, load<T, L>(row) + ds);
        store<T, L>(column, load<T, L>(column) + ds);
      }
      for (int64_t t = 0; t < 2 * S; ++t) {
        const int64_t offset = (t < S ? t - p / S : t - S - p % S) + S - 1;
        T* totals = grad_offsets(n, t >= S) + offset * C * kMost;
        const T* relative = (t < S ? head.rows : head.columns) + offset * C;
        const V sum = load<T, L>(sums + t * L);
        for (int64_t c = 0; c < C; ++c) {
          T* total = totals + c * kMost;
          store<T, L>(total, load<T, L>(total) + sum * load<T, L>(pixel + c * L));
          if (image) store<T, L>(grad + c * L, load<T, L>(grad + c * L) + sum * (relative[c] * unit));
        }
      }
    }
  }

  template <int L>
  void grad_of_values(int64_t n, int64_t x) {
    using V = Vec<T, L>;
    const int64_t C = shape_.channels, E = shape_.value_dim, P = positions_, S = shape_.block;
    if (call_.value.data) {
      const auto to = rows_of(grad_value_rows_, channels_);
      give_blocks<T, L>(grad_values_, E, S, x * S, to.memory + n * E * to.step, to.size(), to.step);
      return;
    }
    T* totals = grad_matrices(n);
    const T* matrices = static_cast<const T*>(call_.w_value);
    for (int64_t s = 0; s < P; ++s)
      for (int64_t c = 0; c < C; ++c) {
        const V pixel = load<T, L>(pixels_ + (s * C + c) * L);
        V grad = {};
        for (int64_t e = 0; e < E; ++e) {
          const V dv = load<T, L>(grad_values_ + (s * E + e) * L);
          T* total = totals + ((s * C + c) * E + e) * kMost;
          store<T, L>(total, load<T, L>(total) + dv * pixel);
          if (call_.grad_image.data) grad += dv * matrices[((s * shape_.heads + n) * E + e) * C + c];
        }
        T* to = grad_pixels_ + (s * C + c) * L;
        if (call_.grad_image.data) store<T, L>(to, load<T, L>(to) + grad);
      }
  }

  void write_weight_gradients(int64_t part) {
    const int64_t C = shape_.channels, D = shape_.head_dim, E = shape_.value_dim, N = shape_.heads, P = positions_;
    const int64_t half = D / 2;
    auto at = [](void* array, int64_t offset) { return array ? static_cast<T*>(array) + offset : nullptr; };
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t i = 0; i < head_vectors(); ++i) folded_[i] = sum_lanes<T, kLanes<T>>(grad_content(n) + i * kMost);
      const T* offsets = folded_ + C * C;
      weights_.unfold(n, folded_, offsets, offsets + offsets_ * C, at(call_.grad_w_query, part * N * D * C),
                      at(call_.grad_w_key, part * N * D * C), at(call_.grad_row, part * N * offsets_ * half),
                      at(call_.grad_col, part * N * offsets_ * half));
      const T* matrices = offsets + 2 * offsets_ * C;
      T* to = at(call_.grad_w_value, part * P * N * E * C);
      for (int64_t s = 0; to && s < P; ++s)
        for (int64_t e = 0; e < E; ++e)
          for (int64_t c = 0; c < C; ++c) to[((s * N + n) * E + e) * C + c] = matrices[(s * C + c) * E + e];
    }
  }

  const BlockBackward& call_;
  const BlockShape& shape_;
  const RowAccess<T> io_;
  BlockWeights<T> weights_;
  const BlockGrid grid_;
  const int64_t positions_, channels_, offsets_;
  T *head_weights_, *grad_weights_, *folded_, *image_rows_, *grad_image_rows_, *value_rows_, *grad_value_rows_;
  T *grad_rows_, *extreme_row_, *pixels_, *grad_pixels_, *scratch_, *tile_weights_, *slopes_, *values_, *mixed_;
  T* grad_values_;
};

template <class T>
void block_backward_as(const BlockBackward& call, const sasa::Parallel& threads) {
  const int64_t strips = sasa::block_strips(call.shape);
  parallel(threads, call.shape.batch * strips, [&](int64_t first, int64_t last) {
    BlockBackwardTask<T> task(call);
    for (int64_t i = first; i < last; ++i) task.run(i / strips, i % strips);
  });
}

void block_backward(const BlockBackward& call, const sasa::Parallel& threads) {
  if (call.shape.storage == Storage::float64) return block_backward_as<double>(call, threads);
  block_backward_as<float>(call, threads);
}

}  // namespace
