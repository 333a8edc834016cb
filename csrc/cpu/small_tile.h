// Local attention on maps of at most 8 x 8 pixels, whose rows are shorter than a vector. Here a lane is one head of one
// image, and one channel of a pixel is a vector: no lanes are lost at the edge of the map, and keys outside the map
// (most of a window, on such maps) cost no products.
//
// Notation: a problem is one head of one image, a group the problems in the lanes of a vector. P = H * W pixels, D and
// E channels of a head, K the window. Arrays are [...][lanes]; counts and strides are in vectors.
#pragma once
#include "tiles.h"

namespace {

constexpr int64_t kSmallSide = 8;

// The problems of one group. Lanes after the last problem repeat it, and their results are not written.
struct LaneGroup {
  int64_t first, count, heads;
  int64_t problem(int64_t lane) const { return first + (lane < count ? lane : count - 1); }
  int64_t image(int64_t lane) const { return problem(lane) / heads; }
  int64_t head(int64_t lane) const { return problem(lane) % heads; }
};

// Interleave the numbers of L addresses, `stride` elements apart, into vectors that are `step` vectors apart.
template <class T, int L, class S>
void pack_lanes(const S* const (&from)[L], int64_t stride, int64_t count, T factor, T* to, int64_t step) {
  int64_t i = 0;
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && L % 8 == 0) {
    for (; stride == 1 && i + 8 <= count; i += 8)
      for (int lane = 0; lane < L; lane += 8) {
        __m256 m[8];
        for (int n = 0; n < 8; ++n) m[n] = load8(from[lane + n] + i);
        transpose8(m);
        for (int n = 0; n < 8; ++n)
          _mm256_storeu_ps(to + (i + n) * step * L + lane, _mm256_mul_ps(m[n], _mm256_set1_ps(factor)));
      }
  }
#endif
  for (; i < count; ++i)
    for (int lane = 0; lane < L; ++lane) to[i * step * L + lane] = widen<T>(from[lane][i * stride]) * factor;
}

// The inverse of pack_lanes, for the first `lanes` lanes.
template <class T, int L, class S>
void unpack_lanes(const T* from, int64_t step, int64_t count, S* const (&to)[L], int64_t stride, int64_t lanes) {
  int64_t i = 0;
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && L % 8 == 0) {
    for (; stride == 1 && i + 8 <= count; i += 8)
      for (int lane = 0; lane < lanes; lane += 8) {
        __m256 m[8];
        for (int n = 0; n < 8; ++n) m[n] = _mm256_loadu_ps(from + (i + n) * step * L + lane);
        transpose8(m);
        for (int n = 0; n < 8 && lane + n < lanes; ++n) store8(to[lane + n] + i, m[n]);
      }
  }
#endif
  for (; i < count; ++i)
    for (int lane = 0; lane < lanes; ++lane) to[lane][i * stride] = narrow<S>(from[i * step * L + lane]);
}

// Call f(addresses of the lanes, stride, count, first vector, step) for runs of elements of a group's part of a map:
// along the pixels where each channel is a dense plane, else along the channels of each pixel.
template <int L, class S, class F>
void lane_runs(const Map& map, const LaneGroup& group, int64_t channels, int64_t height, int64_t width, F&& f) {
  S* at[L];
  auto set = [&](int64_t c, int64_t y, int64_t x) {
    for (int lane = 0; lane < L; ++lane)
      at[lane] = row_of<S>(map, group.image(lane), group.head(lane) * channels + c, y) + x * map.stride[3];
  };
  if (map.stride[3] == 1 && map.stride[2] == width && map.stride[1] != 1) {
    for (int64_t c = 0; c < channels; ++c) set(c, 0, 0), f(at, 1, height * width, c, channels);
    return;
  }
  for (int64_t p = 0; p < height * width; ++p)
    set(0, p / width, p % width), f(at, map.stride[1], channels, p * channels, 1);
}

// A group's part of a map, times `factor`, into an array (pixels, channels).
template <class T, int L, class S>
void pack_small(const Map& map, const LaneGroup& group, int64_t channels, int64_t height, int64_t width, T factor,
                T* to) {
  lane_runs<L, S>(map, group, channels, height, width,
                  [&](S* const(&at)[L], int64_t stride, int64_t count, int64_t first, int64_t step) {
                    const S* from[L];
                    for (int lane = 0; lane < L; ++lane) from[lane] = at[lane];
                    pack_lanes<T, L, S>(from, stride, count, factor, to + first * L, step);
                  });
}

// The inverse of pack_small.
template <class T, int L, class S>
void unpack_small(const T* from, const Map& map, const LaneGroup& group, int64_t channels, int64_t height,
                  int64_t width) {
  lane_runs<L, S>(map, group, channels, height, width,
                  [&](S* const(&at)[L], int64_t stride, int64_t count, int64_t first, int64_t step) {
                    unpack_lanes<T, L, S>(from + first * L, step, count, at, stride, group.count);
                  });
}

// pack_small and unpack_small for a storage type, as function pointers: see RowAccess.
template <class T, int L>
struct LaneAccess {
  void (*pack)(const Map&, const LaneGroup&, int64_t channels, int64_t height, int64_t width, T factor, T* to);
  void (*unpack)(const T* from, const Map&, const LaneGroup&, int64_t channels, int64_t height, int64_t width);

  static LaneAccess of(Storage storage) {
    if constexpr (std::is_same_v<T, double>) {
      return {pack_small<double, L, double>, unpack_small<double, L, double>};
    } else {
      if (storage == Storage::bfloat16) return {pack_small<float, L, bfloat16>, unpack_small<float, L, bfloat16>};
      if (storage == Storage::float16) return {pack_small<float, L, float16>, unpack_small<float, L, float16>};
      return {pack_small<float, L, float>, unpack_small<float, L, float>};
    }
  }
};

// ---------------------------------------------------------------------------------------- the softmax of a window

// The part of a window that is inside the map, along one axis: coordinates [begin, end) of the map, which are offsets
// [first, last) of the window.
struct Visible {
  int64_t begin, end, first, last;
  Visible(int64_t at, int64_t side, int64_t window) {
    const int64_t half = window / 2;
    begin = at > half ? at - half : 0;
    end = at + half + 1 < side ? at + half + 1 : side;
    first = begin - at + half, last = end - at + half;
  }
  int64_t count() const { return end - begin; }
};

// The softmax of one query. With padding="zeros", keys outside the map are zero vectors that take part. Their logit is
// row[a] + column[c], so the sum of their exponentials is two products of sums: rows outside the map times all columns,
// plus rows inside times columns outside. `terms` are the row terms of the query, then its column terms (null: none).
template <class T, int L>
class SmallSoftmax {
 public:
  using V = Vec<T, L>;
  static int64_t elements(int64_t window) { return 3 * window * L; }

  SmallSoftmax(int64_t window, bool mask, T* scratch)
      : window_(window),
        mask_(mask),
        rows_(scratch),
        columns_(scratch + window * L),
        outer_columns_(scratch + 2 * window * L) {}

  // Turn q.k at [y * width + x] of `logits` into weights; pixels of these rows outside the window get 0. Returns the
  // log2-sum-exp2.
  V normalize(const Visible& down, const Visible& across, int64_t width, const T* terms, T* logits) {
    terms_ = terms, down_ = down, across_ = across;
    outside_rows_ = !mask_ && down.count() < window_, outside_columns_ = !mask_ && across.count() < window_;
    V largest = minus_infinity<T, L>();
    for (int64_t y = down.begin; y < down.end; ++y)
      for (int64_t x = across.begin; x < across.end; ++x) {
        T* logit = logits + (y * width + x) * L;
        const V value = load<T, L>(logit) + row(down.first + y - down.begin) + column(across.first + x - across.begin);
        store<T, L>(logit, value);
        largest = maximum<T, L>(largest, value);
      }
    find_outside_maxima();
    if (outside_rows_) largest = maximum<T, L>(largest, max_outer_rows_ + max_columns_);
    if (outside_columns_) largest = maximum<T, L>(largest, max_inner_rows_ + max_outer_columns_);
    V sum = sum_outside(largest);
    for (int64_t y = down.begin; y < down.end; ++y)
      for (int64_t x = across.begin; x < across.end; ++x) {
        T* logit = logits + (y * width + x) * L;
        const V weight = exp2_negative<T, L>(load<T, L>(logit) - largest);
        store<T, L>(logit, weight);
        sum += weight;
      }
    inverse_ = static_cast<T>(1) / sum;
    for (int64_t y = down.begin; y < down.end; ++y)
      for (int64_t x = 0; x < width; ++x) {
        T* logit = logits + (y * width + x) * L;
        const bool seen = x >= across.begin && x < across.end;
        store<T, L>(logit, seen ? load<T, L>(logit) * inverse_ : V{});
      }
    return largest + log2_positive<T, L>(sum);
  }

  // After `normalize`: add what keys outside the map contribute to the sums of ds over each row (sums[a]) and column
  // (sums[K + c]). Their values are zero, so ds = -p delta.
  void add_outside(V delta, T* sums) const {
    const V unit = -delta * inverse_;
    for (int64_t a = 0; a < window_; ++a) {
      const bool in = row_in(a);
      if (!(in ? outside_columns_ : outside_rows_)) continue;
      add(sums + a * L, load<T, L>(rows_ + a * L) * (in ? scaled_outer_columns_ : scaled_columns_) * unit);
    }
    for (int64_t c = 0; c < window_; ++c) {
      const bool in = column_in(c);
      V part = {};
      if (outside_rows_) part += load<T, L>(columns_ + c * L) * scaled_outer_rows_;
      if (outside_columns_ && !in) part += load<T, L>(outer_columns_ + c * L) * scaled_inner_rows_;
      add(sums + (window_ + c) * L, part * unit);
    }
  }

 private:
  static void add(T* to, V value) { store<T, L>(to, load<T, L>(to) + value); }
  V row(int64_t a) const { return terms_ ? load<T, L>(terms_ + a * L) : V{}; }
  V column(int64_t c) const { return terms_ ? load<T, L>(terms_ + (window_ + c) * L) : V{}; }
  bool row_in(int64_t a) const { return a >= down_.first && a < down_.last; }
  bool column_in(int64_t c) const { return c >= across_.first && c < across_.last; }

  // The maxima of the row terms outside and inside the map, and of the column terms, all and outside.
  void find_outside_maxima() {
    max_outer_rows_ = max_inner_rows_ = max_columns_ = max_outer_columns_ = minus_infinity<T, L>();
    if (!outside_rows_ && !outside_columns_) return;
    for (int64_t a = 0; a < window_; ++a) {
      V& largest = row_in(a) ? max_inner_rows_ : max_outer_rows_;
      largest = maximum<T, L>(largest, row(a));
      max_columns_ = maximum<T, L>(max_columns_, column(a));
      if (!column_in(a)) max_outer_columns_ = maximum<T, L>(max_outer_columns_, column(a));
    }
  }

  // The sum of 2**(logit - largest) over the keys outside the map; keeps its factors.
  V sum_outside(V largest) {
    if (!outside_rows_ && !outside_columns_) return V{};
    V outer_rows = {}, inner_rows = {}, all_columns = {}, outer_columns = {};
    for (int64_t a = 0; a < window_; ++a) {
      const V weight = exp2_negative<T, L>(row(a) - (row_in(a) ? max_inner_rows_ : max_outer_rows_));
      store<T, L>(rows_ + a * L, weight);
      (row_in(a) ? inner_rows : outer_rows) += weight;
      const V weight_of_column = exp2_negative<T, L>(column(a) - max_columns_);
      store<T, L>(columns_ + a * L, weight_of_column);
      all_columns += weight_of_column;
      if (column_in(a)) continue;
      const V weight_of_outer_column = exp2_negative<T, L>(column(a) - max_outer_columns_);
      store<T, L>(outer_columns_ + a * L, weight_of_outer_column);
      outer_columns += weight_of_outer_column;
    }
    V sum = {};
    if (outside_rows_) {
      const V unit = exp2_negative<T, L>(max_outer_rows_ + max_columns_ - largest);
      scaled_columns_ = all_columns * unit, scaled_outer_rows_ = outer_rows * unit;
      sum += outer_rows * scaled_columns_;
    }
    if (outside_columns_) {
      const V unit = exp2_negative<T, L>(max_inner_rows_ + max_outer_columns_ - largest);
      scaled_outer_columns_ = outer_columns * unit, scaled_inner_rows_ = inner_rows * unit;
      sum += inner_rows * scaled_outer_columns_;
    }
    return sum;
  }

  const int64_t window_;
  const bool mask_;
  T *rows_, *columns_, *outer_columns_;  // 2**(term - maximum) of rows, of all columns, of columns outside
  const T* terms_ = nullptr;
  Visible down_{0, 1, 1}, across_{0, 1, 1};
  bool outside_rows_ = false, outside_columns_ = false;
  V max_outer_rows_, max_inner_rows_, max_columns_, max_outer_columns_;
  V scaled_columns_, scaled_outer_rows_, scaled_outer_columns_, scaled_inner_rows_, inverse_;
};

}  // namespace
