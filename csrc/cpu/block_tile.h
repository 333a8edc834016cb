// A tile of attention inside blocks: L neighbouring blocks of one row of blocks, one in each lane. A position of the
// block is a vector, and the lanes are independent. Notation: see block_weights.h.
#pragma once
#include "block_weights.h"

namespace {

// Where a tile is in the image. Rows of the last blocks, and columns of the last lanes, may be outside the image.
struct BlockPlace {
  int64_t y, x, height, width, block;  // (y, x): the first pixel of the first lane's block
  bool whole(int64_t lanes) const { return y + block <= height && x + lanes * block <= width; }
  // The lanes in which position p is inside the image.
  template <class T, int L>
  SASA_INLINE Vec<IntFor<T>, L> inside(int64_t p) const {
    const IntFor<T> row = y + p / block < height ? -1 : 0;
    const Vec<IntFor<T>, L> column =
        lane_indices<T, L>() * static_cast<IntFor<T>>(block) + static_cast<IntFor<T>>(x + p % block);
    return (column < static_cast<IntFor<T>>(width)) & row;
  }
  // Set the logits of pixels outside the image to minus infinity.
  template <class T, int L>
  void mask_outside(int64_t positions, T* logits) const {
    for (int64_t s = 0; s < positions; ++s) {
      const Vec<T, L> logit = load<T, L>(logits + s * L);
      store<T, L>(logits + s * L, inside<T, L>(s) ? logit : minus_infinity<T, L>());
    }
  }
  // Set the `count` vectors of pixel p to 0 in the lanes where the pixel is outside the image.
  template <class T, int L>
  void clear_outside(int64_t p, int64_t count, T* row) const {
    const Vec<IntFor<T>, L> in = inside<T, L>(p);
    for (int64_t i = 0; i < count; ++i) store<T, L>(row + i * L, in ? load<T, L>(row + i * L) : Vec<T, L>{});
  }
};

// S rows of a map in planar form; rows and columns outside the image are zeros.
template <class T>
struct BlockRows {
  T* memory;
  int64_t channels, block, step;  // step: elements between channels
  int64_t height, width;          // of the map

  int64_t size() const { return channels * step; }
  void clear_all() const { clear(memory, block * size()); }

  void pack(const RowAccess<T>& io, const Map& map, int64_t b, int64_t y) const {
    for (int64_t r = 0; r < block; ++r) {
      if (y + r < height) {
        io.pack({map, b, 0, channels, y + r, width}, 1, memory + r * size(), step);
      } else {
        clear(memory + r * size(), size());
      }
    }
  }
  void unpack(const RowAccess<T>& io, const Map& map, int64_t b, int64_t y) const {
    for (int64_t r = 0; r < block && y + r < height; ++r)
      io.unpack(memory + r * size(), step, {map, b, 0, channels, y + r, width});
  }

  // `count` channels from `first` on of the blocks from column x on: to tile[p * count + c][L], a block in each lane.
  template <int L>
  void load_tile(int64_t first, int64_t count, int64_t x, T* tile) const {
    for (int64_t p = 0; p < block * block; ++p)
      for (int64_t c = 0; c < count; ++c) {
        const T* from = memory + p / block * size() + (first + c) * step + x + p % block;
        for (int lane = 0; lane < L; ++lane) tile[(p * count + c) * L + lane] = from[lane * block];
      }
  }
  // The inverse of load_tile.
  template <int L>
  void store_tile(int64_t first, int64_t count, int64_t x, const T* tile) const {
    for (int64_t p = 0; p < block * block; ++p)
      for (int64_t c = 0; c < count; ++c) {
        T* to = memory + p / block * size() + (first + c) * step + x + p % block;
        for (int lane = 0; lane < L; ++lane) to[lane * block] = tile[(p * count + c) * L + lane];
      }
  }
};

// Softmax over s of the logits of one query pixel, in place. Returns their log-sum-exp in units of log2(e). Where the
// maximum is infinite, its weight is NaN and the others are 0, as in the reference.
template <class T, int L>
SASA_INLINE Vec<T, L> block_softmax(T* row, int64_t positions) {
  using V = Vec<T, L>;
  V largest = minus_infinity<T, L>(), nan = {}, sum = {};
  for (int64_t s = 0; s < positions; ++s) {
    const V logit = load<T, L>(row + s * L);
    largest = maximum<T, L>(logit, largest);  // in this order NaN is skipped
    nan = logit == logit ? nan : logit;
  }
  largest = nan == nan ? largest : nan;
  for (int64_t s = 0; s < positions; ++s) {
    const V weight = exp2_negative<T, L>(load<T, L>(row + s * L) - largest);
    store<T, L>(row + s * L, weight);
    sum += weight;
  }
  const V inverse = sum == sum ? static_cast<T>(1) / sum : splat<T, L>(1);
  for (int64_t s = 0; s < positions; ++s) store<T, L>(row + s * L, load<T, L>(row + s * L) * inverse);
  return sum == sum ? largest + log2_positive<T, L>(sum) : largest;
}

// weights[p * P + s][L]: the softmax over s of the logits of one head; logsumexp[p][L] in natural units, unless null.
// Pixels outside the image are not keys, and have weights 0 as queries. `scratch` holds (P * C + 2 * S) vectors.
template <class T, int L>
void block_weights(const BlockWeights<T>& all, const HeadWeights<T>& head, const BlockPlace& place, const T* pixels,
                   T* scratch, T* weights, T* logsumexp) {
  using V = Vec<T, L>;
  const int64_t C = all.shape().channels, S = place.block, P = S * S;
  T* keys = scratch;  // M x_s, (P, C)
  if (head.content) {
    for (int64_t s = 0; s < P; ++s)
      for (int64_t c = 0; c < C; ++c) {
        V sum = {};
        for (int64_t i = 0; i < C; ++i) sum += load<T, L>(pixels + (s * C + i) * L) * head.content[c * C + i];
        store<T, L>(keys + (s * C + c) * L, sum);
      }
  }
  T* terms = scratch + P * C * L;  // relative terms of p: rows of the block, then its columns
  const bool whole = place.whole(L), finite = all.finite() && all_finite(pixels, P * C * L);
  for (int64_t p = 0; p < P; ++p) {
    const T* pixel = pixels + p * C * L;
    for (int64_t t = 0; t < 2 * S; ++t) {
      V sum = {};
      if (head.rows) {
        const int64_t offset = t < S ? t - p / S : t - S - p % S;
        const T* relative = (t < S ? head.rows : head.columns) + (offset + S - 1) * C;
        for (int64_t c = 0; c < C; ++c) sum += load<T, L>(pixel + c * L) * relative[c];
      }
      store<T, L>(terms + t * L, sum);
    }
    T* row = weights + p * P * L;
    if (!finite) all.template direct_logits<L>(head.head, p, pixels, row);
    for (int64_t s = 0; finite && s < P; ++s) {
      V logit = load<T, L>(terms + s / S * L) + load<T, L>(terms + (S + s % S) * L);
      if (head.content)
        for (int64_t c = 0; c < C; ++c) logit += load<T, L>(pixel + c * L) * load<T, L>(keys + (s * C + c) * L);
      store<T, L>(row + s * L, logit);
    }
    if (!whole) place.mask_outside<T, L>(P, row);
    const V log2_sum = block_softmax<T, L>(row, P);
    if (logsumexp) store<T, L>(logsumexp + p * L, log2_sum * static_cast<T>(kLn2));
    if (!whole) place.clear_outside<T, L>(p, P, row);
  }
}

// values[s * E + e][L] = w_value[s][e] . x_s of one head; 0 for pixels outside the image, even if w_value is not
// finite.
template <class T, int L>
void block_values(const T* w_value, int64_t head, const BlockShape& shape, const BlockPlace& place, const T* pixels,
                  T* values) {
  const int64_t C = shape.channels, P = shape.block * shape.block, E = shape.value_dim;
  for (int64_t s = 0; s < P; ++s)
    for (int64_t e = 0; e < E; ++e) {
      const T* w = w_value + ((s * shape.heads + head) * E + e) * C;
      Vec<T, L> sum = {};
      for (int64_t c = 0; c < C; ++c) sum += load<T, L>(pixels + (s * C + c) * L) * w[c];
      store<T, L>(values + (s * E + e) * L, sum);
    }
  if (place.whole(L)) return;
  for (int64_t s = 0; s < P; ++s) place.clear_outside<T, L>(s, E, values + s * E * L);
}

}  // namespace
