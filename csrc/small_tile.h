// Maps of at most 8 x 8 pixels, which are narrower than a vector: a lane is one head of one image, and a pixel's channel
// is a vector. No lane is lost to the map's edge, and keys beyond the map, most of a window there, cost no products.
//
// Words: a problem is one head of one image, a group the problems in the lanes of a vector; P = H * W pixels, D, E
// channels of a head, K the window; memory is laid out [...][lanes], and counts and strides are in vectors.
#pragma once
#include <limits>

#include "tiles.h"

namespace {

constexpr int64_t kSmallSide = 8;

// The problems of one group. Lanes beyond the last problem repeat it, and nothing of theirs is written.
struct LaneGroup {
  int64_t first, count, heads;
  int64_t problem(int64_t lane) const { return first + (lane < count ? lane : count - 1); }
  int64_t image(int64_t lane) const { return problem(lane) / heads; }
  int64_t head(int64_t lane) const { return problem(lane) % heads; }
};

// Numbers that the lanes have each in a row of memory of their own, `stride` elements apart, into vectors `step` apart.
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

// The way back, of the first `lanes` lanes.
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

// Calls f(lanes' addresses, stride, count, first vector, step) for runs of a group's part of a map: along the channels
// of a pixel, or, where each channel is a dense plane, along its pixels.
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

// A group's part of a map to (pixels, channels), times `factor`; and back.
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

template <class T, int L, class S>
void unpack_small(const T* from, const Map& map, const LaneGroup& group, int64_t channels, int64_t height,
                  int64_t width) {
  lane_runs<L, S>(map, group, channels, height, width,
                  [&](S* const(&at)[L], int64_t stride, int64_t count, int64_t first, int64_t step) {
                    unpack_lanes<T, L, S>(from + first * L, step, count, at, stride, group.count);
                  });
}

// The two for a storage type, as pointers: the kernels around them are compiled once for all storage types.
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

// ------------------------------------------------------------------------------------------------------- products

// One side of a product: where it begins, and what a step along its own index and along the two summed ones is.
template <class T>
struct Operand {
  const T* data;
  int64_t side, outer, inner;
};

struct Depth {
  int64_t outer, inner;
};

// Where a product goes: out[i * row + j * column] = sum * factor, or is added there.
template <class T>
struct Target {
  T* data;
  int64_t row, column;
  T factor;
  bool add;
};

template <class T, int L, int I, int J>
SASA_INLINE void product_block(const Depth& depth, Operand<T> a, Operand<T> b, const Target<T>& out) {
  Vec<T, L> acc[I][J] = {};
  for (int64_t o = 0; o < depth.outer; ++o) {
    const T *left = a.data + o * a.outer * L, *right = b.data + o * b.outer * L;
    for (int64_t n = 0; n < depth.inner; ++n, left += a.inner * L, right += b.inner * L) {
      Vec<T, L> l[I];
#pragma GCC unroll 4
      for (int i = 0; i < I; ++i) l[i] = load<T, L>(left + i * a.side * L);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) {
        Vec<T, L> r = load<T, L>(right + j * b.side * L);
        keep(r);
#pragma GCC unroll 4
        for (int i = 0; i < I; ++i) acc[i][j] += l[i] * r;
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      T* to = out.data + (i * out.row + j * out.column) * L;
      const Vec<T, L> sum = acc[i][j] * out.factor;
      store<T, L>(to, out.add ? load<T, L>(to) + sum : sum);
    }
}

// Calls f with an integral constant of min(left, MOST).
template <int MOST, class F>
SASA_INLINE int64_t up_to(int64_t left, F&& f) {
  if constexpr (MOST > 1) {
    if (left < MOST) return up_to<MOST - 1>(left, f);
  }
  f(Int<MOST>{});
  return MOST;
}

// out[i][j] = sum over the depth of a[i] b[j], lane by lane.
template <class T, int L>
void product(int64_t rows, int64_t columns, const Depth& depth, const Operand<T>& a, const Operand<T>& b,
             const Target<T>& out) {
  constexpr int I = kRegisters >= 32 ? 4 : 2;
  for (int64_t i = 0; i < rows;)
    i += up_to<I>(rows - i, [&](auto some_rows) {
      for (int64_t j = 0; j < columns;)
        j += up_to<4>(columns - j, [&](auto some_columns) {
          product_block<T, L, decltype(some_rows)::value, decltype(some_columns)::value>(
              depth, {a.data + i * a.side * L, a.side, a.outer, a.inner},
              {b.data + j * b.side * L, b.side, b.outer, b.inner},
              {out.data + (i * out.row + j * out.column) * L, out.row, out.column, out.factor, out.add});
        });
    });
}

// -------------------------------------------------------------------------------------------------------- windows

// Along one axis of the map: the part [begin, end) that the window of a query sees, and [first, last) of its offsets.
struct Seen {
  int64_t begin, end, first, last;
  Seen(int64_t at, int64_t side, int64_t window) {
    const int64_t half = window / 2;
    begin = at > half ? at - half : 0;
    end = at + half + 1 < side ? at + half + 1 : side;
    first = begin - at + half, last = end - at + half;
  }
  int64_t count() const { return end - begin; }
};

// The softmax of one query. Where padding="zeros", keys beyond the map are zero vectors that take part: their logit is
// row[a] + column[c] alone, so the sum over them is two products of sums, of rows beyond the map with all columns and of
// rows in it with columns beyond it. `terms` are the query's row terms, then its column terms (null: there are none).
template <class T, int L>
class SmallSoftmax {
 public:
  using V = Vec<T, L>;
  static int64_t elements(int64_t window) { return 3 * window * L; }

  SmallSoftmax(int64_t window, bool mask, T* scratch)
      : window_(window), mask_(mask), rows_(scratch), all_(scratch + window * L), out_(scratch + 2 * window * L) {}

  // q.k at [y * width + x] of `logits` to weights, 0 outside of the window in its rows; returns the log2-sum-exp2.
  V weigh(const Seen& down, const Seen& across, int64_t width, const T* terms, T* logits) {
    terms_ = terms, down_ = down, across_ = across;
    beyond_rows_ = !mask_ && down.count() < window_, beyond_columns_ = !mask_ && across.count() < window_;
    V most = splat<T, L>(-std::numeric_limits<T>::infinity());
    for (int64_t y = down.begin; y < down.end; ++y)
      for (int64_t x = across.begin; x < across.end; ++x) {
        T* logit = logits + (y * width + x) * L;
        const V value = load<T, L>(logit) + row(down.first + y - down.begin) + column(across.first + x - across.begin);
        store<T, L>(logit, value);
        most = maximum<T, L>(most, value);
      }
    find_most_beyond();
    if (beyond_rows_) most = maximum<T, L>(most, most_rows_ + most_all_);
    if (beyond_columns_) most = maximum<T, L>(most, most_inner_ + most_columns_);
    V sum = sum_beyond(most);
    for (int64_t y = down.begin; y < down.end; ++y)
      for (int64_t x = across.begin; x < across.end; ++x) {
        T* logit = logits + (y * width + x) * L;
        const V weight = exp2_negative<T, L>(load<T, L>(logit) - most);
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
    return most + log2_positive<T, L>(sum);
  }

  // Adds the sums of ds over each row (sums[a]) and column (sums[K + c]) that keys beyond the map have after `weigh`:
  // their values are zero, so ds = -p delta.
  void add_slopes_beyond(V delta, T* sums) const {
    const V unit = -delta * inverse_;
    for (int64_t a = 0; a < window_; ++a) {
      const bool in = row_in(a);
      if (!(in ? beyond_columns_ : beyond_rows_)) continue;
      add(sums + a * L, load<T, L>(rows_ + a * L) * (in ? scaled_columns_ : scaled_all_) * unit);
    }
    for (int64_t c = 0; c < window_; ++c) {
      const bool in = column_in(c);
      V part = {};
      if (beyond_rows_) part += load<T, L>(all_ + c * L) * scaled_rows_;
      if (beyond_columns_ && !in) part += load<T, L>(out_ + c * L) * scaled_inner_;
      add(sums + (window_ + c) * L, part * unit);
    }
  }

 private:
  static void add(T* to, V value) { store<T, L>(to, load<T, L>(to) + value); }
  V row(int64_t a) const { return terms_ ? load<T, L>(terms_ + a * L) : V{}; }
  V column(int64_t c) const { return terms_ ? load<T, L>(terms_ + (window_ + c) * L) : V{}; }
  bool row_in(int64_t a) const { return a >= down_.first && a < down_.last; }
  bool column_in(int64_t c) const { return c >= across_.first && c < across_.last; }

  // The largest row term of rows beyond the map and in it, and column term of all columns and of those beyond.
  void find_most_beyond() {
    most_rows_ = most_inner_ = most_all_ = most_columns_ = splat<T, L>(-std::numeric_limits<T>::infinity());
    if (!beyond_rows_ && !beyond_columns_) return;
    for (int64_t a = 0; a < window_; ++a) {
      V& most = row_in(a) ? most_inner_ : most_rows_;
      most = maximum<T, L>(most, row(a));
      most_all_ = maximum<T, L>(most_all_, column(a));
      if (!column_in(a)) most_columns_ = maximum<T, L>(most_columns_, column(a));
    }
  }

  // The sum of 2**(logit - most) of the keys beyond the map, and its factors.
  V sum_beyond(V most) {
    if (!beyond_rows_ && !beyond_columns_) return V{};
    V outer = {}, inner = {}, all = {}, columns = {};
    for (int64_t a = 0; a < window_; ++a) {
      const bool in = row_in(a);
      const V weight = exp2_negative<T, L>(row(a) - (in ? most_inner_ : most_rows_));
      store<T, L>(rows_ + a * L, weight);
      (in ? inner : outer) += weight;
      const V of_all = exp2_negative<T, L>(column(a) - most_all_);
      store<T, L>(all_ + a * L, of_all);
      all += of_all;
      if (column_in(a)) continue;
      const V of_columns = exp2_negative<T, L>(column(a) - most_columns_);
      store<T, L>(out_ + a * L, of_columns);
      columns += of_columns;
    }
    V sum = {};
    if (beyond_rows_) {
      const V unit = exp2_negative<T, L>(most_rows_ + most_all_ - most);
      scaled_all_ = all * unit, scaled_rows_ = outer * unit;
      sum += outer * scaled_all_;
    }
    if (beyond_columns_) {
      const V unit = exp2_negative<T, L>(most_inner_ + most_columns_ - most);
      scaled_columns_ = columns * unit, scaled_inner_ = inner * unit;
      sum += inner * scaled_columns_;
    }
    return sum;
  }

  const int64_t window_;
  const bool mask_;
  T *rows_, *all_, *out_;  // 2**(term - the largest of its kind): of rows, of all columns, of columns beyond
  const T* terms_ = nullptr;
  Seen down_{0, 1, 1}, across_{0, 1, 1};
  bool beyond_rows_ = false, beyond_columns_ = false;
  V most_rows_, most_inner_, most_all_, most_columns_;
  V scaled_all_, scaled_rows_, scaled_columns_, scaled_inner_, inverse_;
};

// ------------------------------------------------------------------------------------------------- what both passes do

// Lanes in which one of the numbers is NaN or infinite, a bit each: their problems are left to the kernels of larger
// maps, which take more care.
template <class T, int L>
uint32_t bad_lanes(const T* numbers, int64_t count) {
  Vec<T, L> sum = {};
  for (int64_t i = 0; i < count; ++i) sum += load<T, L>(numbers + i * L) * static_cast<T>(0);
  uint32_t bad = 0;
  for (int lane = 0; lane < L; ++lane) bad |= static_cast<uint32_t>(sum[lane] != 0) << lane;
  return bad;
}

// Embeddings (heads, K, D / 2) to [K][D / 2][lanes].
template <class T, int L>
void take_lanes_relative(const T* from, const LaneGroup& group, int64_t count, T* to) {
  for (int lane = 0; lane < L; ++lane)
    for (int64_t i = 0; i < count; ++i) to[i * L + lane] = from[group.head(lane) * count + i];
}

// Whether maps are better taken this way: by the vectors of products for each channel, pairs of pixels of the map here
// and one tile a row there, and by how many threads find work, of which four are assumed: results must not depend on how
// many there are. A fifth is for what else differs.
template <class T, int L>
bool small_is_faster(const sasa::LocalShape& shape) {
  if (shape.height > kSmallSide || shape.width > kSmallSide) return false;
  int64_t rows = 0;
  for (int64_t y = 0; y < shape.height; ++y) rows += Seen(y, shape.height, shape.window).count();
  const int64_t columns = shape.width < shape.window + 2 ? shape.width : shape.window + 2;
  const int64_t problems = shape.batch * shape.heads, groups = (problems + L - 1) / L;
  const int64_t here = groups * rows * shape.width * columns,
                there = problems * shape.height * shape.window * shape.window;
  const auto threads = [](int64_t tasks) { return tasks < 4 ? tasks : 4; };
  return 5 * here * threads(problems) < 4 * there * threads(groups);
}

// Calls run(lanes) with the lanes of a vector, half of them where those suffice.
template <class T, class F>
SASA_INLINE void with_small_lanes(const sasa::LocalShape& shape, F&& run) {
  constexpr int L = kLanes<T>;
  if constexpr (kBytes == 64 && std::is_same_v<T, float>) {
    if (shape.batch * shape.heads <= L / 2) return run(Int<L / 2>{});
  }
  run(Int<L>{});
}

// Groups [first, last) through tasks of kind Task; `again(problem)` for each problem that a task returns as a bad lane.
template <class Task, int L, class Call, class F>
void run_small(const Call& call, int64_t first, int64_t last, F&& again) {
  const int64_t problems = call.shape.batch * call.shape.heads;
  for (int64_t group = first; group < last;) {
    uint32_t bad = 0;
    {
      Task task(call);
      for (; group < last && bad == 0; ++group) {
        const int64_t left = problems - group * L;
        bad = task.run({group * L, left < L ? left : L, call.shape.heads});
      }
    }
    for (int lane = 0; lane < L; ++lane)  // with the scratch memory that the task has had
      if ((bad >> lane & 1) && (group - 1) * L + lane < problems) again((group - 1) * L + lane);
  }
}

}  // namespace
