// Small matrix products of which every element is a vector: the lanes are independent problems. Counts and strides are
// in vectors.
#pragma once
#include "vec.h"

namespace {

template <int N>
using Int = std::integral_constant<int, N>;

// One factor: its address, the stride along its own index (rows of the left factor, columns of the right one), and the
// strides along the two indices that are summed over.
template <class T>
struct Operand {
  const T* data;
  int64_t side, outer, inner;
};

// How many terms a sum has: outer * inner.
struct Depth {
  int64_t outer, inner;
};

// The result, at data[i * row + j * column], in one of two ways.
template <class T>
struct Store {
  T* data;
  int64_t row, column;
  template <int L>
  SASA_INLINE void put(T* to, Vec<T, L> sum) const {
    store<T, L>(to, sum);
  }
  Store at(T* block) const { return {block, row, column}; }
};

template <class T>
struct ScaleAndStore {
  T* data;
  int64_t row, column;
  T factor;
  bool add;  // to the numbers that are there
  template <int L>
  SASA_INLINE void put(T* to, Vec<T, L> sum) const {
    const Vec<T, L> scaled = sum * factor;
    store<T, L>(to, add ? load<T, L>(to) + scaled : scaled);
  }
  ScaleAndStore at(T* block) const { return {block, row, column, factor, add}; }
};

template <class T, int L, int I, int J, class Result>
SASA_INLINE void product_block(const Depth& depth, Operand<T> a, Operand<T> b, const Result& out) {
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
        keep_in_register(r);
#pragma GCC unroll 4
        for (int i = 0; i < I; ++i) acc[i][j] += l[i] * r;
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) out.template put<L>(out.data + (i * out.row + j * out.column) * L, acc[i][j]);
}

// Call f with an integral constant of min(left, MAX), and return it.
template <int MAX, class F>
SASA_INLINE int64_t up_to(int64_t left, F&& f) {
  if constexpr (MAX > 1) {
    if (left < MAX) return up_to<MAX - 1>(left, f);
  }
  f(Int<MAX>{});
  return MAX;
}

// out[i][j] = sum over the depth of a[i] * b[j], lane by lane. Result: Store or ScaleAndStore.
template <class T, int L, class Result>
void product(int64_t rows, int64_t columns, const Depth& depth, const Operand<T>& a, const Operand<T>& b,
             const Result& out) {
  constexpr int I = kRegisters >= 32 ? 4 : 2;
  for (int64_t i = 0; i < rows;)
    i += up_to<I>(rows - i, [&](auto block_rows) {
      for (int64_t j = 0; j < columns;)
        j += up_to<4>(columns - j, [&](auto block_columns) {
          product_block<T, L, decltype(block_rows)::value, decltype(block_columns)::value>(
              depth, {a.data + i * a.side * L, a.side, a.outer, a.inner},
              {b.data + j * b.side * L, b.side, b.outer, b.inner},
              out.at(out.data + (i * out.row + j * out.column) * L));
        });
    });
}

}  // namespace
