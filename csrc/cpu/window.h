// The two products of a tile of attention, blocked for registers: scores (queries times the keys of their windows) and
// weighted sums (of the values of their windows).
//
// A tile is R rows of L neighbouring query pixels of one head; a row is a vector. Scores keep an accumulator for each
// row and column offset, so that each key vector is loaded once for R rows. Weighted sums keep one for each row and
// channel.
//
// Notation: K is the window. A row pointer points at the pixel that the first offset of the tile's first lane sees. j and
// c count the rows and columns that a tile sees. There are R + K - 1 such rows; for row r of the tile, j - r is the row
// offset in the window.
#pragma once
#include "products.h"
#include "rows.h"

namespace {

// The planar rows that a tile at column x sees; none where `first` is null. `step` is the distance between channels.
template <class T>
struct Rows {
  const T* const* first;
  int64_t x, step;
  SASA_INLINE const T* operator[](int64_t j) const { return first[j] + x; }
};

// The relative embeddings of a head, (D / 2, K) each; null: none.
template <class T>
struct Relative {
  const T *rows, *columns;
};

// Rows of a tile: as many as registers allow with K column offsets each.
template <int K>
constexpr int kRows = K == 0 || K > 9 ? 2 : 3;
// Column offsets, and channels, that fit into registers at once.
template <int K, int R>
constexpr int kColumns = kRegisters >= 32 ? (K == 0 ? 4 : K) : (R == 1 ? 8 : 4);
constexpr int kChannels = kRegisters >= 32 ? 8 : 4;

// Call f(j, lo, hi) for j in [begin, end), where rows lo to hi - 1 of the tile see row j; lo and hi are integral
// constants.
template <int R, class F>
SASA_INLINE void each_row(int64_t window, int64_t begin, int64_t end, F&& f) {
  for (int64_t j = begin; j < end; ++j) {
    const int64_t lo = j - window + 1 > 0 ? j - window + 1 : 0, hi = j + 1 < R ? j + 1 : R;
    if (lo == 0 && hi == R) f(j, Int<0>{}, Int<R>{});
    if constexpr (R == 2) {
      if (hi == 1) f(j, Int<0>{}, Int<1>{});
      if (lo == 1) f(j, Int<1>{}, Int<2>{});
    }
    if constexpr (R == 3) {
      if (hi == 1) f(j, Int<0>{}, Int<1>{});
      if (lo == 0 && hi == 2) f(j, Int<0>{}, Int<2>{});
      if (lo == 1 && hi == 3) f(j, Int<1>{}, Int<3>{});
      if (lo == 1 && hi == 2) f(j, Int<1>{}, Int<2>{});  // windows of two rows or one
      if (lo == 2) f(j, Int<2>{}, Int<3>{});
    }
  }
}

// Call f(count, first) for blocks of column offsets that fit into registers; `count` is an integral constant.
template <int K, int R, class F>
SASA_INLINE void each_column_block(int64_t window, F&& f) {
  constexpr int N = kColumns<K, R>;
  if constexpr (K > 0 && K <= N) {
    f(Int<K>{}, 0);
  } else {
    const int64_t columns = K > 0 ? K : window;
    int64_t c = 0;
    for (; c + N <= columns; c += N) f(Int<N>{}, c);
    if constexpr (K == 0) {
      for (; c < columns; ++c) f(Int<1>{}, c);
    } else if constexpr (K % N != 0) {
      f(Int<K % N>{}, c);
    }
  }
}

// acc[r][c] += sum over channels of left[r] * right[c .. c + L), rows LO to HI - 1, N columns.
template <class T, int L, int N, int LO, int HI, int R>
SASA_INLINE void multiply(const T* const (&left)[R], const T* right, int64_t step, int64_t channels,
                          Vec<T, L> (&acc)[R][N]) {
  for (int64_t d = 0; d < channels; ++d) {
    Vec<T, L> l[R];
#pragma GCC unroll 8
    for (int r = LO; r < HI; ++r) l[r] = load<T, L>(left[r] + d * step);
#pragma GCC unroll 16
    for (int c = 0; c < N; ++c) {
      Vec<T, L> k = load<T, L>(right + d * step + c);
      keep_in_register(k);
#pragma GCC unroll 8
      for (int r = LO; r < HI; ++r) acc[r][c] += l[r] * k;
    }
  }
}

// scores[(r * K + j - r) * K + c][L] = start[r * K + c][L] + left[r] . rows[j][c], for all rows and N columns from
// `column` on. A null `start` stands for zeros; without rows there are no products.
template <class T, int L, int N, int R>
SASA_INLINE void score_columns(const T* const (&left)[R], const Rows<T>& rows, int64_t channels, const T* start,
                               int64_t window, int64_t column, T* scores) {
  each_row<R>(window, 0, R + window - 1, [&](int64_t j, auto lo, auto hi) __attribute__((always_inline)) {
    constexpr int LO = decltype(lo)::value, HI = decltype(hi)::value;
    Vec<T, L> acc[R][N];
#pragma GCC unroll 8
    for (int r = LO; r < HI; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < N; ++c) acc[r][c] = start ? load<T, L>(start + (r * window + column + c) * L) : Vec<T, L>{};
    if (rows.first) multiply<T, L, N, LO, HI, R>(left, rows[j] + column, rows.step, channels, acc);
#pragma GCC unroll 8
    for (int r = LO; r < HI; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < N; ++c) store<T, L>(scores + ((r * window + j - r) * window + column + c) * L, acc[r][c]);
  });
}

template <class T, int L, int K, int R>
SASA_INLINE void score(const T* const (&left)[R], const Rows<T>& rows, int64_t channels, const T* start, int64_t window,
                       T* scores) {
  each_column_block<K, R>(window, [&](auto count, int64_t first) __attribute__((always_inline)) {
    score_columns<T, L, decltype(count)::value, R>(left, rows, channels, start, K > 0 ? K : window, first, scores);
  });
}

// acc[r][e] += sum over (j, c) of weight(r, j, c) * rows[j][first + e][c], rows j in [begin, end), N channels.
// `weight(r, j, c)` returns the address of a vector.
template <class T, int L, int N, int K, int R, class W>
SASA_INLINE void weighted_sum(W&& weight, const Rows<T>& rows, int64_t begin, int64_t end, int64_t window,
                              int64_t first, Vec<T, L> (&acc)[R][N]) {
  const int64_t columns = K > 0 ? K : window, step = rows.step;
  each_row<R>(columns, begin, end, [&](int64_t j, auto lo, auto hi) __attribute__((always_inline)) {
    constexpr int LO = decltype(lo)::value, HI = decltype(hi)::value;
    const T* row = rows[j] + first * step;
    for (int64_t c = 0; c < columns; ++c) {
      Vec<T, L> w[R];
#pragma GCC unroll 8
      for (int r = LO; r < HI; ++r) w[r] = load<T, L>(weight(r, j, c));
#pragma GCC unroll 8
      for (int e = 0; e < N; ++e) {
        Vec<T, L> v = load<T, L>(row + e * step + c);
        keep_in_register(v);
#pragma GCC unroll 8
        for (int r = LO; r < HI; ++r) acc[r][e] += w[r] * v;
      }
    }
  });
}

// terms[r * K + o][L] = sum over channels of left[r] * embedding[d * K + o], for N offsets from `first` on: the
// products q.r of one axis.
template <class T, int L, int N, int R>
SASA_INLINE void relative_columns(const T* const (&left)[R], int64_t step, int64_t channels, const T* embedding,
                                  int64_t window, int64_t first, T* terms) {
  Vec<T, L> acc[R][N] = {};
  for (int64_t d = 0; d < channels; ++d) {
    Vec<T, L> l[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) l[r] = load<T, L>(left[r] + d * step);
#pragma GCC unroll 16
    for (int o = 0; o < N; ++o) {
      const T value = embedding[d * window + first + o];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][o] += l[r] * value;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int o = 0; o < N; ++o) store<T, L>(terms + (r * window + first + o) * L, acc[r][o]);
}

template <class T, int L, int K, int R>
SASA_INLINE void relative_terms(const T* const (&left)[R], int64_t step, int64_t channels, const T* embedding,
                                int64_t window, T* terms) {
  each_column_block<K, R>(window, [&](auto count, int64_t first) __attribute__((always_inline)) {
    relative_columns<T, L, decltype(count)::value, R>(left, step, channels, embedding, K > 0 ? K : window, first,
                                                      terms);
  });
}

// All bits set in the lanes of columns x, x + 1, ... that are inside the map.
template <class T, int L>
SASA_INLINE Vec<IntFor<T>, L> columns_inside(int64_t x, int64_t width) {
  const Vec<IntFor<T>, L> column = lane_indices<T, L>() + static_cast<IntFor<T>>(x);
  return (column >= 0) & (column < static_cast<IntFor<T>>(width));
}

}  // namespace
