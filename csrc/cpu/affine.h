// Batch norm of inference, shortcut and ReLU in place, in one pass over the map: y = x * gain + shift for each channel,
// plus another map, then ReLU.
#pragma once
#include "tiles.h"

namespace {

using sasa::Affine;

// `count` adjacent elements, with a gain and a shift for `each` of them or the same for all.
template <class T, class S>
void affine_run(S* x, const S* residual, const T* gain, const T* shift, int64_t count, bool each, bool relu) {
  constexpr int L = std::is_same_v<T, S> ? kLanes<T> : 8;
  int64_t i = 0;
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && !std::is_same_v<S, float>) {
    for (; i + 8 <= count; i += 8) {
      __m256 y = _mm256_mul_ps(load8(x + i), each ? _mm256_loadu_ps(gain + i) : _mm256_set1_ps(*gain));
      y = _mm256_add_ps(y, each ? _mm256_loadu_ps(shift + i) : _mm256_set1_ps(*shift));
      if (residual) y = _mm256_add_ps(y, load8(residual + i));
      if (relu) y = _mm256_max_ps(_mm256_setzero_ps(), y);  // in this order NaN is kept
      store8(x + i, y);
    }
  }
#endif
  if constexpr (std::is_same_v<T, S>) {
    using V = Vec<T, L>;
    for (; i + L <= count; i += L) {
      V y = load<T, L>(x + i) * (each ? load<T, L>(gain + i) : splat<T, L>(*gain));
      y += each ? load<T, L>(shift + i) : splat<T, L>(*shift);
      if (residual) y += load<T, L>(residual + i);
      if (relu) y = y < V{} ? V{} : y;
      store<T, L>(x + i, y);
    }
  }
  for (; i < count; ++i) {
    T y = widen<T>(x[i]) * gain[each ? i : 0] + shift[each ? i : 0];
    if (residual) y += widen<T>(residual[i]);
    x[i] = narrow<S>(relu && y < 0 ? T(0) : y);
  }
}

template <class T, class S>
void affine_as(const Affine& call, const sasa::Parallel& threads) {
  S* x = static_cast<S*>(call.x);
  const S* residual = static_cast<const S*>(call.residual);
  const T *gain = static_cast<const T*>(call.gain), *shift = static_cast<const T*>(call.shift);
  const bool each = call.inner == 1;
  // A piece of work is a few pixels with all their channels, or one plane of one channel.
  const int64_t pixels = each ? (4096 + call.channels - 1) / call.channels : 1;
  const int64_t pieces = each ? (call.outer + pixels - 1) / pixels : call.outer * call.channels;
  parallel(threads, pieces, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      if (!each) {
        const int64_t c = piece % call.channels, at = piece * call.inner;
        affine_run<T, S>(x + at, residual ? residual + at : nullptr, gain + c, shift + c, call.inner, false, call.relu);
        continue;
      }
      const int64_t end = (piece + 1) * pixels < call.outer ? (piece + 1) * pixels : call.outer;
      for (int64_t pixel = piece * pixels; pixel < end; ++pixel) {
        const int64_t at = pixel * call.channels;
        affine_run<T, S>(x + at, residual ? residual + at : nullptr, gain, shift, call.channels, true, call.relu);
      }
    }
  });
}

void affine(const Affine& call, const sasa::Parallel& threads) {
  switch (call.storage) {
    case Storage::float64: return affine_as<double, double>(call, threads);
    case Storage::bfloat16: return affine_as<float, bfloat16>(call, threads);
    case Storage::float16: return affine_as<float, float16>(call, threads);
    default: return affine_as<float, float>(call, threads);
  }
}

}  // namespace
