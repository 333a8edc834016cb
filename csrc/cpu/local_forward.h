// Eq. 3 forward. A task is a strip of rows of some heads of one image. Rows of keys and values pass through ring
// buffers of planar rows that stay in cache, and tiles of up to three rows of queries follow them down the map.
//
// Logits are in units of log2(e), so that the exponential is 2**x.
#pragma once
#include "tiles.h"

namespace {

using sasa::LocalForward;
using sasa::LocalShape;

// Where a tile is in the map.
struct TilePlace {
  int64_t y, x, height, width, window;
  bool mask;
  // Whether a window of the tile reaches outside the map.
  bool at_border(int64_t rows, int64_t lanes) const {
    const int64_t half = window / 2;
    return y < half || x < half || y + rows + half > height || x + lanes + half > width;
  }
  // Whether row `a` of the windows of the tile's row r is inside the map.
  bool row_inside(int64_t r, int64_t a) const {
    const int64_t row = y + r + a - window / 2;
    return row >= 0 && row < height;
  }
  // The lanes of the tile's row r for which position (a, c) of the window is inside the map.
  template <class T, int L>
  SASA_INLINE Vec<IntFor<T>, L> inside(int64_t r, int64_t a, int64_t c) const {
    return row_inside(r, a) ? columns_inside<T, L>(x + c - window / 2, width) : Vec<IntFor<T>, L>{};
  }
};

// padding="mask": set the logits of keys outside the map to minus infinity. The row terms of rows outside become 0, so
// that no NaN in them remains.
template <class T, int L, int R>
SASA_INLINE void mask_outside(const TilePlace& place, T* row_terms, T* logits) {
  const int64_t k = place.window;
  for (int64_t r = 0; r < R; ++r)
    for (int64_t a = 0; a < k; ++a) {
      if (!place.row_inside(r, a)) store<T, L>(row_terms + (r * k + a) * L, Vec<T, L>{});
      for (int64_t c = 0; c < k; ++c) {
        T* logit = logits + ((r * k + a) * k + c) * L;
        store<T, L>(logit, place.inside<T, L>(r, a, c) ? load<T, L>(logit) : minus_infinity<T, L>());
      }
    }
}

// logits[(r * K + a) * K + c][L] of a tile, without their row terms, which go to terms[r * K + a][L]. (`terms` holds
// row terms, then column terms, which the logits include.) Without relative embeddings both are zero.
template <class T, int L, int K, int R>
SASA_INLINE void tile_logits(const T* const (&query)[R], const Rows<T>& keys, int64_t channels,
                             const Relative<T>& relative, const TilePlace& place, T* terms, T* logits) {
  const int64_t window = K > 0 ? K : place.window, half = channels / 2;
  T* row_terms = terms;
  T* column_terms = terms + R * window * L;
  if (relative.rows) {
    relative_terms<T, L, K, R>(query, keys.step, half, relative.rows, window, row_terms);
    const T* second_half[R];
    for (int r = 0; r < R; ++r) second_half[r] = query[r] + half * keys.step;
    relative_terms<T, L, K, R>(second_half, keys.step, half, relative.columns, window, column_terms);
  } else {
    clear(row_terms, R * window * L);
  }
  score<T, L, K, R>(query, keys, channels, relative.rows ? column_terms : static_cast<const T*>(nullptr), window,
                    logits);
  if (place.mask && place.at_border(R, L)) mask_outside<T, L, R>(place, row_terms, logits);
}

// Softmax over the window without the division: logits become exp2(logit - maximum). Returns 1 / their sum. *log2_sum
// is the log2-sum-exp2 of the logits; it is NaN where they are not all finite (see nonfinite_logsumexp).
template <class T, int L, int K>
SASA_INLINE Vec<T, L> softmax(T* logits, const T* row_terms, int64_t window, Vec<T, L>* log2_sum) {
  using V = Vec<T, L>;
  const int64_t k = K > 0 ? K : window;
  V largest = minus_infinity<T, L>();
  for (int64_t a = 0; a < k; ++a) {
    V row = load<T, L>(logits + a * k * L);
#pragma GCC unroll 16
    for (int64_t c = 1; c < k; ++c) row = maximum<T, L>(row, load<T, L>(logits + (a * k + c) * L));
    largest = maximum<T, L>(largest, row + load<T, L>(row_terms + a * L));
  }
  V sum = {};
  for (int64_t a = 0; a < k; ++a) {
    const V shift = load<T, L>(row_terms + a * L) - largest;
#pragma GCC unroll 16
    for (int64_t c = 0; c < k; ++c) {
      T* logit = logits + (a * k + c) * L;
      const V weight = exp2_negative<T, L>(load<T, L>(logit) + shift);
      store<T, L>(logit, weight);
      sum += weight;
    }
  }
  if (log2_sum) *log2_sum = largest + log2_positive<T, L>(sum);
  return static_cast<T>(1) / sum;
}

// The log2-sum-exp2 of row r of a tile where some logits are not finite: NaN if one of them is NaN, else their maximum,
// which is an infinity.
template <class T, int L>
Vec<T, L> nonfinite_logsumexp(const TilePlace& place, int64_t r, const T* logits, const T* row_terms) {
  Vec<T, L> largest = minus_infinity<T, L>(), nan = {};
  for (int64_t a = 0; a < place.window; ++a)
    for (int64_t c = 0; c < place.window; ++c) {
      Vec<T, L> logit = load<T, L>(logits + (a * place.window + c) * L) + load<T, L>(row_terms + a * L);
      if (place.mask) logit = place.inside<T, L>(r, a, c) ? logit : minus_infinity<T, L>();
      largest = maximum<T, L>(logit, largest);  // in this order NaN is skipped
      nan = logit == logit ? nan : logit;
    }
  return nan == nan ? largest : nan;
}

// out[r][first + e] = sum over the window of weights * values, times inverse[r], for N channels e.
template <class T, int L, int N, int K, int R>
SASA_INLINE void sum_of_values(const T* weights, const Rows<T>& values, int64_t window, int64_t first,
                               const Vec<T, L> (&inverse)[R], T* const (&out)[R]) {
  const int64_t k = K > 0 ? K : window;
  Vec<T, L> acc[R][N] = {};
  auto weight = [&](int64_t r, int64_t j, int64_t c)
                    __attribute__((always_inline)) { return weights + ((r * k + j - r) * k + c) * L; };
  weighted_sum<T, L, N, K, R>(weight, values, 0, R + k - 1, window, first, acc);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int e = 0; e < N; ++e) store<T, L>(out[r] + (first + e) * values.step, acc[r][e] * inverse[r]);
}

template <class T, int K>
class LocalForwardTask {
 public:
  LocalForwardTask(const LocalForward& call, int64_t heads)
      : call_(call),
        shape_(call.shape),
        io_(RowAccess<T>::of(call.shape.storage)),
        heads_(heads),
        window_(K > 0 ? K : shape_.window),
        half_(window_ / 2),
        slots_(window_ - 1 + 2 * kRows<K>),
        layout_(shape_.width, half_) {
    allocate_scratch([this](Arena& arena) { lay_out(arena); });
    clear(queries_, kRows<K> * layout_.row(shape_.head_dim));
    for (int64_t g = 0; g < heads_; ++g) {
      if (call_.key.data) keys(g).clear_all();
      values(g).clear_all();
    }
  }

  // Rows [begin, end) of heads [head, head + heads_) of image b; `begin` must be even if rows are pooled.
  void run(int64_t b, int64_t head, int64_t begin, int64_t end) {
    for (int64_t g = 0; g < heads_; ++g) load_relative(head + g, g);
    int64_t packed = begin > half_ ? begin - half_ : 0, written = begin;
    for (int64_t y = begin, rows; y < end; y += rows) {
      rows = tile_rows<K>(end - y, window_);
      const int64_t needed = y + rows + half_ < shape_.height ? y + rows + half_ : shape_.height;
      for (; packed < needed; ++packed)
        for (int64_t g = 0; g < heads_; ++g) pack_keys_and_values(b, head + g, g, packed);
      for (int64_t g = 0; g < heads_; ++g) attend(b, head + g, g, y, rows);
      // Pooling needs pairs of rows: an odd one waits for the next tile.
      const int64_t done = y + rows < end ? (y + rows) / call_.pool * call_.pool : end;
      for (int64_t g = 0; g < heads_; ++g)
        for (int64_t row = written; row < done; row += call_.pool) write(b, head + g, g, row);
      written = done;
    }
  }

 private:
  static constexpr int64_t kOutputRows = 4;  // those of a tile, and one that waits to be pooled

  void lay_out(Arena& arena) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, R = kRows<K>, L = kLanes<T>;
    keys_ = arena.take<T>(call_.key.data ? heads_ * RowRing<T>::elements(slots_, D, layout_) : 0);
    values_ = arena.take<T>(heads_ * RowRing<T>::elements(slots_, E, layout_));
    queries_ = arena.take<T>(R * layout_.row(D));
    outputs_ = arena.take<T>(heads_ * kOutputRows * layout_.row(E));
    logits_ = arena.take<T>(R * window_ * window_ * L);
    terms_ = arena.take<T>(2 * R * window_ * L);
    relative_ = arena.take<T>(call_.rel_row ? heads_ * D * window_ : 0);
    tile_keys_ = arena.take<const T*>(R + window_);
    tile_values_ = arena.take<const T*>(R + window_);
  }

  RowRing<T> keys(int64_t g) const {
    return {keys_ + g * RowRing<T>::elements(slots_, shape_.head_dim, layout_), slots_, shape_.head_dim, layout_};
  }
  RowRing<T> values(int64_t g) const {
    return {values_ + g * RowRing<T>::elements(slots_, shape_.value_dim, layout_), slots_, shape_.value_dim, layout_};
  }
  T* output_row(int64_t g, int64_t y) const {
    return outputs_ + (g * kOutputRows + y % kOutputRows) * layout_.row(shape_.value_dim) + layout_.pad;
  }
  Relative<T> relative(int64_t g) const {
    const T* rows = relative_ + g * shape_.head_dim * window_;
    if (!call_.rel_row) return {nullptr, nullptr};
    return {rows, rows + shape_.head_dim / 2 * window_};
  }

  // The embeddings of a head from (K, D / 2) to (D / 2, K), so that the offsets of one channel are adjacent.
  void load_relative(int64_t head, int64_t g) {
    if (!call_.rel_row) return;
    const int64_t d = shape_.head_dim / 2;
    T* to = relative_ + 2 * g * window_ * d;
    transpose_relative(static_cast<const T*>(call_.rel_row) + head * window_ * d, window_, d, to);
    transpose_relative(static_cast<const T*>(call_.rel_col) + head * window_ * d, window_, d, to + window_ * d);
  }

  void pack_keys_and_values(int64_t b, int64_t head, int64_t g, int64_t y) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, W = shape_.width;
    if (call_.key.data) io_.pack({call_.key, b, head * D, D, y, W}, 1, keys(g).row(y), layout_.step);
    io_.pack({call_.value, b, head * E, E, y, W}, 1, values(g).row(y), layout_.step);
  }

  // Attention of `rows` rows of queries from y on, into the output rows.
  void attend(int64_t b, int64_t head, int64_t g, int64_t y, int64_t rows) {
    const int64_t D = shape_.head_dim, W = shape_.width, seen = rows + window_ - 1;
    const T factor = static_cast<T>(shape_.scale * kLog2e);
    for (int64_t r = 0; r < rows; ++r)
      io_.pack({call_.query, b, head * D, D, y + r, W}, factor, query_row(r), layout_.step);
    if (call_.key.data) keys(g).window_rows(y - half_, seen, shape_.height, half_, tile_keys_);
    values(g).window_rows(y - half_, seen, shape_.height, half_, tile_values_);
    each_tile<T, K>(W, rows, [&](int64_t x, auto lanes, auto tile_rows) {
      tile<decltype(lanes)::value, decltype(tile_rows)::value>(b, head, g, y, x);
    });
  }

  T* query_row(int64_t r) const { return queries_ + r * layout_.row(shape_.head_dim) + layout_.pad; }

  template <int L, int R>
  void tile(int64_t b, int64_t head, int64_t g, int64_t y, int64_t x) {
    const TilePlace place{y, x, shape_.height, shape_.width, window_, shape_.mask};
    const T* query[R];
    T* out[R];
    for (int r = 0; r < R; ++r) query[r] = query_row(r) + x, out[r] = output_row(g, y + r) + x;
    const Rows<T> keys{call_.key.data ? tile_keys_ : nullptr, x, layout_.step}, values{tile_values_, x, layout_.step};
    tile_logits<T, L, K, R>(query, keys, shape_.head_dim, relative(g), place, terms_, logits_);
    Vec<T, L> inverse[R], log2_sum[R];
    bool nonfinite = false;
    for (int r = 0; r < R; ++r) {
      inverse[r] = softmax<T, L, K>(logits_ + r * window_ * window_ * L, terms_ + r * window_ * L, window_,
                                    call_.logsumexp ? &log2_sum[r] : nullptr);
      if (!call_.logsumexp) continue;
      write_logsumexp<L>(b, head, y + r, x, log2_sum[r] * static_cast<T>(kLn2));
      nonfinite |= any_nan<T, L>(log2_sum[r]);
    }
    int64_t e = 0;
    for (; e + kChannels <= shape_.value_dim; e += kChannels)
      sum_of_values<T, L, kChannels, K, R>(logits_, values, window_, e, inverse, out);
    for (; e < shape_.value_dim; ++e) sum_of_values<T, L, 1, K, R>(logits_, values, window_, e, inverse, out);
    if (nonfinite) write_nonfinite_logsumexp<L, R>(place, b, head, g, query, keys, log2_sum);
  }

  // The log-sum-exp where logits are not finite. Softmax has overwritten them, so they are computed again.
  template <int L, int R>
  __attribute__((noinline)) void write_nonfinite_logsumexp(const TilePlace& place, int64_t b, int64_t head, int64_t g,
                                                           const T* const (&query)[R], const Rows<T>& keys,
                                                           const Vec<T, L> (&log2_sum)[R]) {
    tile_logits<T, L, K, R>(query, keys, shape_.head_dim, relative(g), place, terms_, logits_);
    for (int r = 0; r < R; ++r) {
      const Vec<T, L> nonfinite =
          nonfinite_logsumexp<T, L>(place, r, logits_ + r * window_ * window_ * L, terms_ + r * window_ * L);
      const Vec<T, L> sum = log2_sum[r] == log2_sum[r] ? log2_sum[r] : nonfinite;
      write_logsumexp<L>(b, head, place.y + r, place.x, sum * static_cast<T>(kLn2));
    }
  }

  template <int L>
  void write_logsumexp(int64_t b, int64_t head, int64_t y, int64_t x, Vec<T, L> values) {
    T* to = static_cast<T*>(call_.logsumexp) + ((b * shape_.heads + head) * shape_.height + y) * shape_.width + x;
    if (x + L <= shape_.width) return store<T, L>(to, values);
    for (int lane = 0; x + lane < shape_.width; ++lane) to[lane] = values[lane];
  }

  // Apply the epilogue to a finished row (or two, if pooled), and write it to the output map.
  void write(int64_t b, int64_t head, int64_t g, int64_t y) {
    const int64_t E = shape_.value_dim;
    int64_t width = shape_.width;
    T* row = output_row(g, y);
    if (call_.pool == 2) {
      const T* other = y + 1 < shape_.height ? output_row(g, y + 1) : nullptr;
      for (int64_t e = 0; e < E; ++e) pool_row(row + e * layout_.step, other ? other + e * layout_.step : nullptr);
      width = (width + 1) / 2;
    }
    for (int64_t e = 0; e < E; ++e) scale_channel(row + e * layout_.step, width, head * E + e);
    io_.unpack(row, layout_.step, {call_.output, b, head * E, E, y / call_.pool, width});
  }

  // In place: the mean of 2 x 2 pixels, of fewer at an odd border.
  void pool_row(T* row, const T* other) const {
    const int64_t pairs = shape_.width / 2;
    const T part = static_cast<T>(other ? 0.25 : 0.5);
    if (other) {
      for (int64_t x = 0; x < shape_.width; ++x) row[x] += other[x];
    }
    const T last = row[shape_.width - 1];
    for (int64_t x = 0; x < pairs; ++x) row[x] = (row[2 * x] + row[2 * x + 1]) * part;
    if (shape_.width % 2) row[pairs] = last * (2 * part);
  }

  // Gain, shift and ReLU.
  void scale_channel(T* row, int64_t width, int64_t channel) const {
    constexpr int L = kLanes<T>;
    if (!call_.gain && !call_.shift && !call_.relu) return;
    const T gain = call_.gain ? static_cast<const T*>(call_.gain)[channel] : T(1);
    const T shift = call_.shift ? static_cast<const T*>(call_.shift)[channel] : T(0);
    for (int64_t x = 0; x < width; x += L) {
      const Vec<T, L> y = load<T, L>(row + x) * gain + shift;
      store<T, L>(row + x, call_.relu ? (y < Vec<T, L>{} ? Vec<T, L>{} : y) : y);
    }
  }

  const LocalForward& call_;
  const LocalShape& shape_;
  const RowAccess<T> io_;
  const int64_t heads_, window_, half_, slots_;
  const RowLayout layout_;
  T *keys_, *values_, *queries_, *outputs_, *logits_, *terms_, *relative_;
  const T **tile_keys_, **tile_values_;
};

inline int64_t bytes_of(Storage storage) {
  return storage == Storage::float64 ? 8 : storage == Storage::float32 ? 4 : 2;
}

template <class T>
void local_forward_as(const LocalForward& call, const sasa::Parallel& threads) {
  const LocalShape& shape = call.shape;
  const int64_t channels = shape.value_dim < shape.head_dim ? shape.value_dim : shape.head_dim;
  const int64_t heads = heads_per_task(shape.batch, shape.heads, channels * bytes_of(shape.storage), threads.threads);
  const int64_t groups = shape.heads / heads;
  const int64_t strip = strip_rows(shape.batch * groups, shape.height, shape.window, threads.threads);
  const int64_t strips = (shape.height + strip - 1) / strip;
  with_window<T>(shape.window, [&](auto window) {
    parallel(threads, shape.batch * groups * strips, [&](int64_t first, int64_t last) {
      LocalForwardTask<T, decltype(window)::value> task(call, heads);
      for (int64_t i = first; i < last; ++i) {
        const int64_t begin = i % strips * strip, end = begin + strip < shape.height ? begin + strip : shape.height;
        task.run(i / strips / groups, i / strips % groups * heads, begin, end);
      }
    });
  });
}

}  // namespace
