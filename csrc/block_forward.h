// Attention inside blocks, forward: a task is a strip of rows of blocks of one picture. The map at full resolution is
// written only if it is asked for; what max pooling leaves of it, and the sums that a batch norm needs, come directly.
#pragma once
#include "block_tile.h"

namespace {

using sasa::BlockForward;

// The rows and tiles that forward and backward walk over.
struct BlockGrid {
  int64_t down, across, step;  // blocks; elements between channels of a planar row, whole tiles of whole blocks
  explicit BlockGrid(const BlockShape& shape)
      : down((shape.height + shape.block - 1) / shape.block),
        across((shape.width + shape.block - 1) / shape.block),
        step(round_up(across, 16) * shape.block + 16) {}
};

// S rows of a map, from channel 0 on, in planar form: rows and columns beyond the picture are zeros.
template <class T>
struct BlockRows {
  T* memory;
  int64_t channels, block, step;

  int64_t size() const { return channels * step; }
  void clear_all() const { clear(memory, block * size()); }
  void pack(const RowAccess<T>& io, const Map& map, int64_t b, int64_t y, int64_t height, int64_t width) const {
    for (int64_t r = 0; r < block; ++r) {
      if (y + r < height) {
        io.pack(map, b, 0, channels, y + r, width, 1, memory + r * size(), step);
      } else {
        clear(memory + r * size(), size());
      }
    }
  }
  void unpack(const RowAccess<T>& io, const Map& map, int64_t b, int64_t y, int64_t height, int64_t width) const {
    for (int64_t r = 0; r < block && y + r < height; ++r)
      io.unpack(memory + r * size(), step, map, b, 0, channels, y + r, width);
  }
};

template <class T>
class BlockForwardTask {
 public:
  explicit BlockForwardTask(const BlockForward& call)
      : call_(call),
        shape_(call.shape),
        io_(RowAccess<T>::of(call.shape.storage)),
        weights_(shape_, call.w_query, call.w_key, call.rel_row, call.rel_col),
        grid_(shape_),
        positions_(shape_.block * shape_.block),
        channels_(shape_.heads * shape_.value_dim) {
    Arena sizes(nullptr);
    lay_out(sizes);
    Arena arena(sasa::scratch(sizes.used()));
    lay_out(arena);
    weights_.fill(head_weights_);
    image_rows().clear_all();
    if (call_.value.data) value_rows().clear_all();
  }

  void run(int64_t b, int64_t strip) {
    if (call_.sums) clear(sums_, 2 * channels_ * kMost);
    const int64_t begin = strip * sasa::kStripBlocks;
    const int64_t end = begin + sasa::kStripBlocks < grid_.down ? begin + sasa::kStripBlocks : grid_.down;
    for (int64_t row = begin; row < end; ++row) row_of_blocks(b, row);
    if (call_.sums) write_sums(b * sasa::block_strips(shape_) + strip);
  }

 private:
  static constexpr int64_t kMost = kLanes<T>;

  void lay_out(Arena& arena) {
    const int64_t C = shape_.channels, E = shape_.value_dim, P = positions_, S = shape_.block;
    head_weights_ = arena.take<T>(BlockWeights<T>::elements(shape_));
    image_rows_ = arena.take<T>(S * C * grid_.step);
    value_rows_ = arena.take<T>(call_.value.data ? S * channels_ * grid_.step : 0);
    output_rows_ = arena.take<T>(call_.output.data ? S * channels_ * grid_.step : 0);
    extreme_row_ = arena.take<T>(call_.extreme.data ? channels_ * pooled_step() : 0);
    position_row_ = arena.take<uint8_t>(call_.extreme.data ? channels_ * pooled_step() : 0);
    sums_ = arena.take<T>(call_.sums ? 2 * channels_ * kMost : 0);
    pixels_ = arena.take<T>(P * C * kMost);
    scratch_ = arena.take<T>((P * C + 2 * S) * kMost);
    tile_weights_ = arena.take<T>(P * P * kMost);
    values_ = arena.take<T>(P * E * kMost);
    mixed_ = arena.take<T>(P * E * kMost);
    logsumexp_ = arena.take<T>(P * kMost);
  }

  BlockRows<T> image_rows() const { return {image_rows_, shape_.channels, shape_.block, grid_.step}; }
  BlockRows<T> value_rows() const { return {value_rows_, channels_, shape_.block, grid_.step}; }
  BlockRows<T> output_rows() const { return {output_rows_, channels_, shape_.block, grid_.step}; }
  int64_t pooled_step() const { return round_up(grid_.across, 16); }

  void row_of_blocks(int64_t b, int64_t row) {
    const int64_t y = row * shape_.block, H = shape_.height, W = shape_.width;
    image_rows().pack(io_, call_.image, b, y, H, W);
    if (call_.value.data) value_rows().pack(io_, call_.value, b, y, H, W);
    across_blocks<T>(grid_.across, [&](int64_t x, auto lanes) { tile<decltype(lanes)::value>(b, y, x); });
    if (call_.output.data) output_rows().unpack(io_, call_.output, b, y, H, W);
    if (call_.extreme.data) {
      io_.unpack(extreme_row_, pooled_step(), call_.extreme, b, 0, channels_, row, grid_.across);
      write_positions(b, row);
    }
  }

  // Blocks [x, x + L) of the row of blocks at pixel row y.
  template <int L>
  void tile(int64_t b, int64_t y, int64_t x) {
    const int64_t S = shape_.block, E = shape_.value_dim, P = positions_;
    const BlockPlace place{y, x * S, shape_.height, shape_.width, S};
    const auto rows = image_rows();
    take_blocks<T, L>(rows.memory, rows.size(), rows.step, shape_.channels, S, x * S, pixels_);
    for (int64_t n = 0; n < shape_.heads; ++n) {
      block_weights<T, L>(weights_, weights_.head(n, head_weights_), n, shape_, place, pixels_, scratch_, tile_weights_,
                          call_.logsumexp ? logsumexp_ : nullptr);
      if (call_.value.data) {
        const auto maps = value_rows();
        take_blocks<T, L>(maps.memory + n * E * maps.step, maps.size(), maps.step, E, S, x * S, values_);
      } else {
        block_values<T, L>(static_cast<const T*>(call_.w_value), n, shape_, place, pixels_, values_);
      }
      lane_product<T, L>(P, P, E, tile_weights_, P, 1, values_, E, 1, mixed_, E);
      if (call_.logsumexp) write_logsumexp<L>(b, n, y, x * S);
      if (call_.output.data) {
        const auto out = output_rows();
        give_blocks<T, L>(mixed_, E, S, x * S, out.memory + n * E * out.step, out.size(), out.step);
      }
      if (call_.extreme.data || call_.sums) pool<L>(n, place, x);
    }
  }

  template <int L>
  void write_logsumexp(int64_t b, int64_t n, int64_t y, int64_t x) {
    const int64_t S = shape_.block;
    T* map = static_cast<T*>(call_.logsumexp) + (b * shape_.heads + n) * shape_.height * shape_.width;
    for (int64_t p = 0; p < positions_; ++p) {
      if (y + p / S >= shape_.height) return;
      T* row = map + (y + p / S) * shape_.width;
      for (int64_t lane = 0, at = x + p % S; lane < L && at < shape_.width; ++lane, at += S)
        row[at] = logsumexp_[p * L + lane];
    }
  }

  // The extreme of each block and channel and its place; the sums of y and y * y over the pixels.
  template <int L>
  void pool(int64_t n, const BlockPlace& place, int64_t x) {
    using V = Vec<T, L>;
    using I = Vec<IntFor<T>, L>;
    const int64_t E = shape_.value_dim;
    const bool whole = place.whole(L);
    for (int64_t e = 0; e < E; ++e) {
      const int64_t channel = n * E + e;
      const T sign = call_.sign && static_cast<const T*>(call_.sign)[channel] < 0 ? T(-1) : T(1);
      V best = splat<T, L>(-std::numeric_limits<T>::infinity()), sum = {}, square = {};
      I at = {};
      for (int64_t p = 0; p < positions_; ++p) {
        V y = load<T, L>(mixed_ + (p * E + e) * L);
        const V z = y * sign;
        I better = (z > best) | (z != z);  // NaN wins and stays, as in max pooling
        if (!whole) {
          const I in = place.inside<T, L>(p);
          better &= in;
          y = in ? y : V{};
        }
        best = better ? z : best;
        at = better ? I{} + static_cast<IntFor<T>>(p) : at;
        sum += y;
        square += y * y;
      }
      if (call_.extreme.data) {
        store<T, L>(extreme_row_ + channel * pooled_step() + x, best * sign);
        for (int lane = 0; lane < L; ++lane)
          position_row_[channel * pooled_step() + x + lane] = static_cast<uint8_t>(at[lane]);
      }
      if (call_.sums) {
        T *total = sums_ + channel * kMost, *squares = sums_ + (channels_ + channel) * kMost;
        store<T, L>(total, load<T, L>(total) + sum);
        store<T, L>(squares, load<T, L>(squares) + square);
      }
    }
  }

  void write_positions(int64_t b, int64_t row) const {
    if (!call_.position.data) return;
    const Map& map = call_.position;
    for (int64_t c = 0; c < channels_; ++c) {
      uint8_t* to = row_of<uint8_t>(map, b, c, row);
      for (int64_t x = 0; x < grid_.across; ++x) to[x * map.stride[3]] = position_row_[c * pooled_step() + x];
    }
  }

  void write_sums(int64_t part) const {
    for (int64_t i = 0; i < 2 * channels_; ++i) {
      double sum = 0;
      for (int64_t lane = 0; lane < kMost; ++lane) sum += static_cast<double>(sums_[i * kMost + lane]);
      call_.sums[part * 2 * channels_ + i] = sum;
    }
  }

  const BlockForward& call_;
  const BlockShape& shape_;
  const RowAccess<T> io_;
  BlockWeights<T> weights_;
  const BlockGrid grid_;
  const int64_t positions_, channels_;
  T *head_weights_, *image_rows_, *value_rows_, *output_rows_, *extreme_row_, *sums_, *pixels_, *scratch_;
  T *tile_weights_, *values_, *mixed_, *logsumexp_;
  uint8_t* position_row_;
};

template <class T>
void block_forward_as(const BlockForward& call, const sasa::Parallel& threads) {
  const int64_t strips = sasa::block_strips(call.shape);
  parallel(threads, call.shape.batch * strips, [&](int64_t first, int64_t last) {
    BlockForwardTask<T> task(call);
    for (int64_t i = first; i < last; ++i) task.run(i / strips, i % strips);
  });
}

void block_forward(const BlockForward& call, const sasa::Parallel& threads) {
  if (call.shape.storage == Storage::float64) return block_forward_as<double>(call, threads);
  block_forward_as<float>(call, threads);
}

}  // namespace
