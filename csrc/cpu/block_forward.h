// Attention inside blocks, forward. A task is a strip of rows of blocks of one image. The map at full resolution is
// written only if the call asks for it; the results of max pooling, and the sums that batch norm needs, are computed in
// the same pass.
#pragma once
#include "block_inputs.h"

namespace {

using sasa::BlockForward;

template <class T>
class BlockForwardTask {
 public:
  explicit BlockForwardTask(const BlockForward& call) : call_(call), shape_(call.shape), in_(call) {
    allocate_scratch([this](Arena& arena) { lay_out(arena); });
    in_.prepare();
  }

  void run(int64_t b, int64_t strip) {
    if (call_.sums) clear(sums_, 2 * in_.channels * kLanes<T>);
    const int64_t begin = strip * sasa::kStripBlocks;
    const int64_t end = begin + sasa::kStripBlocks < in_.grid.down ? begin + sasa::kStripBlocks : in_.grid.down;
    for (int64_t row = begin; row < end; ++row) row_of_blocks(b, row);
    if (call_.sums) write_sums(b * sasa::block_strips(shape_) + strip);
  }

 private:
  void lay_out(Arena& arena) {
    const int64_t E = shape_.value_dim, P = in_.positions, S = shape_.block, L = kLanes<T>;
    in_.lay_out(arena);
    output_rows_ = arena.take<T>(call_.output.data ? S * in_.channels * in_.grid.step : 0);
    extreme_row_ = arena.take<T>(call_.extreme.data ? in_.channels * pooled_step() : 0);
    position_row_ = arena.take<uint8_t>(call_.extreme.data ? in_.channels * pooled_step() : 0);
    sums_ = arena.take<T>(call_.sums ? 2 * in_.channels * L : 0);
    output_ = arena.take<T>(P * E * L);
    logsumexp_ = arena.take<T>(P * L);
  }

  BlockRows<T> output_rows() const { return in_.rows(output_rows_, in_.channels); }
  int64_t pooled_step() const { return round_up(in_.grid.across, 16); }

  void row_of_blocks(int64_t b, int64_t row) {
    const int64_t y = row * shape_.block;
    in_.pack(b, y);
    each_vector<T>(in_.grid.across, [&](int64_t x, auto lanes) { tile<decltype(lanes)::value>(b, y, x); });
    if (call_.output.data) output_rows().unpack(in_.io, call_.output, b, y);
    if (call_.extreme.data) {
      in_.io.unpack(extreme_row_, pooled_step(), {call_.extreme, b, 0, in_.channels, row, in_.grid.across});
      write_positions(b, row);
    }
  }

  // Blocks [x, x + L) of the row of blocks at pixel row y.
  template <int L>
  void tile(int64_t b, int64_t y, int64_t x) {
    const int64_t S = shape_.block, E = shape_.value_dim, P = in_.positions;
    const BlockPlace place{y, x * S, shape_.height, shape_.width, S};
    in_.template load_tile<L>(x * S);
    for (int64_t n = 0; n < shape_.heads; ++n) {
      in_.template attend<L>(in_.weights.head(n), place, call_.logsumexp ? logsumexp_ : nullptr);
      product<T, L>(P, E, {1, P}, {in_.tile_weights, P, 0, 1}, {in_.values, 1, 0, E}, Store<T>{output_, E, 1});
      if (call_.logsumexp) write_logsumexp<L>(b, n, y, x * S);
      if (call_.output.data) output_rows().template store_tile<L>(n * E, E, x * S, output_);
      if (call_.extreme.data || call_.sums) pool<L>(n, place, x);
    }
  }

  template <int L>
  void write_logsumexp(int64_t b, int64_t n, int64_t y, int64_t x) {
    const int64_t S = shape_.block;
    T* map = static_cast<T*>(call_.logsumexp) + (b * shape_.heads + n) * shape_.height * shape_.width;
    for (int64_t p = 0; p < in_.positions; ++p) {
      if (y + p / S >= shape_.height) return;
      T* row = map + (y + p / S) * shape_.width;
      for (int64_t lane = 0, at = x + p % S; lane < L && at < shape_.width; ++lane, at += S)
        row[at] = logsumexp_[p * L + lane];
    }
  }

  // The extreme of each block and channel, and its position; the sums of y and y * y over the pixels.
  template <int L>
  void pool(int64_t n, const BlockPlace& place, int64_t x) {
    using V = Vec<T, L>;
    using I = Vec<IntFor<T>, L>;
    const int64_t E = shape_.value_dim, P = in_.positions;
    const bool whole = place.whole(L);
    const T* output = output_;
    for (int64_t e = 0; e < E; ++e) {
      const int64_t channel = n * E + e;
      const T sign = call_.sign && static_cast<const T*>(call_.sign)[channel] < 0 ? T(-1) : T(1);
      V best = minus_infinity<T, L>(), sum = {}, square = {};
      I at = {};
      for (int64_t p = 0; p < P; ++p) {
        V y = load<T, L>(output + (p * E + e) * L);
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
        T *total = sums_ + channel * kLanes<T>, *squares = sums_ + (in_.channels + channel) * kLanes<T>;
        store<T, L>(total, load<T, L>(total) + sum);
        store<T, L>(squares, load<T, L>(squares) + square);
      }
    }
  }

  void write_positions(int64_t b, int64_t row) const {
    if (!call_.position.data) return;
    const Map& map = call_.position;
    for (int64_t c = 0; c < in_.channels; ++c) {
      uint8_t* to = row_of<uint8_t>(map, b, c, row);
      for (int64_t x = 0; x < in_.grid.across; ++x) to[x * map.stride[3]] = position_row_[c * pooled_step() + x];
    }
  }

  void write_sums(int64_t part) const {
    for (int64_t i = 0; i < 2 * in_.channels; ++i) {
      double sum = 0;
      for (int64_t lane = 0; lane < kLanes<T>; ++lane) sum += static_cast<double>(sums_[i * kLanes<T> + lane]);
      call_.sums[part * 2 * in_.channels + i] = sum;
    }
  }

  const BlockForward& call_;
  const BlockShape& shape_;
  BlockInputs<T> in_;
  T *output_rows_, *extreme_row_, *sums_, *output_, *logsumexp_;
  uint8_t* position_row_;
};

void block_forward(const BlockForward& call, const sasa::Parallel& threads) {
  run_strips<BlockForwardTask>(call, threads);
}

}  // namespace
