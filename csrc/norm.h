// Batch norm in training with the shortcut and the ReLU behind it, on channels_last float32 maps:
// y = relu((x - mean) / sqrt(variance + eps) * weight + bias + residual), mean and variance those of the batch.
//
// A map is walked in chunks that stay in cache, always the same ones, so no sum depends on the number of threads. A
// chunk has its mean and its squared deviations from it in two passes; chunks are put together in double.
#pragma once
#include "kernels.h"
#include "tiles.h"

namespace {

using sasa::NormBackward;
using sasa::NormForward;

constexpr int kNormLanes = kLanes<float>;
constexpr int kNormBlock = 4;  // vectors of channels at once

// Calls f(first channel, vectors, lanes) for blocks of channels: whole vectors in fours and ones, then single channels.
template <class F>
SASA_INLINE void channel_blocks(int64_t channels, F&& f) {
  int64_t c = 0;
  for (; c + kNormBlock * kNormLanes <= channels; c += kNormBlock * kNormLanes)
    f(c, Int<kNormBlock>{}, Int<kNormLanes>{});
  for (; c + kNormLanes <= channels; c += kNormLanes) f(c, Int<1>{}, Int<kNormLanes>{});
  for (; c < channels; ++c) f(c, Int<1>{}, Int<1>{});
}

// Calls f(first pixel, last pixel) of each chunk.
template <class F>
void norm_chunks(int64_t pixels, int64_t channels, const sasa::Parallel& threads, F&& f) {
  const int64_t each = sasa::norm_chunk_pixels(channels);
  parallel(threads, sasa::norm_chunks(pixels, channels), [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      f(chunk, chunk * each, (chunk + 1) * each < pixels ? (chunk + 1) * each : pixels);
  });
}

// Adds to sums that lie in memory: pixel by pixel, so that a map streams by in its own order.
template <int L>
SASA_INLINE void add_to(float* sum, Vec<float, L> value) {
  store<float, L>(sum, load<float, L>(sum) + value);
}

void norm_statistics(const NormForward& call, const sasa::Parallel& threads) {
  const int64_t C = call.channels;
  norm_chunks(call.pixels, C, threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    float *mean = call.parts + chunk * 2 * C, *squares = mean + C;
    float* rest = static_cast<float*>(sasa::scratch(static_cast<size_t>(C) * sizeof(float)));
    clear(mean, 2 * C);
    clear(rest, C);
    auto each_vector = [&](auto f) __attribute__((always_inline)) {
      for (int64_t p = begin; p < end; ++p)
        channel_blocks(C, [&](int64_t c, auto vectors, auto lanes) __attribute__((always_inline)) {
          constexpr int N = decltype(vectors)::value, L = decltype(lanes)::value;
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) f(c + n * L, load<float, L>(call.x + p * C + c + n * L), lanes);
        });
    };
    each_vector([&](int64_t c, auto x, auto lanes)
                    __attribute__((always_inline)) { add_to<decltype(lanes)::value>(mean + c, x); });
    const float part = 1.0f / static_cast<float>(end - begin);
    for (int64_t c = 0; c < C; ++c) mean[c] *= part;
    each_vector([&](int64_t c, auto x, auto lanes) __attribute__((always_inline)) {
      constexpr int L = decltype(lanes)::value;
      const Vec<float, L> off = x - load<float, L>(mean + c);
      add_to<L>(rest + c, off);  // what the mean was rounded off by
      add_to<L>(squares + c, off * off);
    });
    for (int64_t c = 0; c < C; ++c) {
      const float missing = rest[c] * part;
      mean[c] += missing;
      squares[c] -= rest[c] * missing;
    }
  });
  const int64_t chunks = sasa::norm_chunks(call.pixels, C), each = sasa::norm_chunk_pixels(C);
  for (int64_t c = 0; c < C; ++c) {
    double mean = 0, squares = 0, count = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const double size = static_cast<double>(chunk + 1 < chunks ? each : call.pixels - chunk * each);
      const double off = call.parts[chunk * 2 * C + c] - mean, total = count + size;
      mean += off * size / total;
      squares += call.parts[chunk * 2 * C + C + c] + off * off * count * size / total;
      count = total;
    }
    call.mean[c] = static_cast<float>(mean);
    call.variance[c] = static_cast<float>(squares / count);
  }
}

// The normalised map is x gain + shift.
template <class Call>
void gain_and_shift(const Call& call, float* gain, float* shift) {
  for (int64_t c = 0; c < call.channels; ++c) {
    gain[c] = static_cast<float>(call.weight[c] / __builtin_sqrt(static_cast<double>(call.variance[c]) + call.eps));
    shift[c] = call.bias[c] - call.mean[c] * gain[c];
  }
}

void norm_forward(const NormForward& call, const sasa::Parallel& threads) {
  norm_statistics(call, threads);
  const int64_t C = call.channels;
  float *gain = call.parts, *shift = call.parts + C;  // the parts have been read
  gain_and_shift(call, gain, shift);
  norm_chunks(call.pixels, C, threads, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      channel_blocks(C, [&](int64_t c, auto vectors, auto lanes) __attribute__((always_inline)) {
        constexpr int N = decltype(vectors)::value, L = decltype(lanes)::value;
        using V = Vec<float, L>;
        for (int n = 0; n < N; ++n) {
          const int64_t at = c + n * L, i = p * C + at;
          V y = load<float, L>(call.x + i) * load<float, L>(gain + at) + load<float, L>(shift + at);
          if (call.residual) y += load<float, L>(call.residual + i);
          if (call.relu) y = y < V{} ? V{} : y;
          store<float, L>(call.y + i, y);
        }
      });
  });
}

// The gradient of what goes into the sum: that of y where y is positive, or NaN, as torch has it. Without a residual y
// is computed from x again.
template <int L>
SASA_INLINE Vec<float, L> grad_before_relu(const NormBackward& call, int64_t i, int64_t c, const float* gain,
                                           const float* shift) {
  const Vec<float, L> grad = load<float, L>(call.grad + i);
  if (!call.relu) return grad;
  const Vec<float, L> y = call.y ? load<float, L>(call.y + i)
                                 : load<float, L>(call.x + i) * load<float, L>(gain + c) + load<float, L>(shift + c);
  return y <= Vec<float, L>{} ? Vec<float, L>{} : grad;
}

void norm_backward(const NormBackward& call, const sasa::Parallel& threads) {
  const int64_t C = call.channels, chunks = sasa::norm_chunks(call.pixels, C);
  float *gain = call.parts + chunks * 2 * C, *shift = gain + C;
  gain_and_shift(call, gain, shift);
  norm_chunks(call.pixels, C, threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    float *sum = call.parts + chunk * 2 * C, *product = sum + C;
    clear(sum, 2 * C);
    for (int64_t p = begin; p < end; ++p)
      channel_blocks(C, [&](int64_t c, auto vectors, auto lanes) __attribute__((always_inline)) {
        constexpr int N = decltype(vectors)::value, L = decltype(lanes)::value;
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          const int64_t at = c + n * L, i = p * C + at;
          const Vec<float, L> grad = grad_before_relu<L>(call, i, at, gain, shift);
          if (call.grad_residual) store<float, L>(call.grad_residual + i, grad);
          add_to<L>(sum + at, grad);
          add_to<L>(product + at, grad * (load<float, L>(call.x + i) - load<float, L>(call.mean + at)));
        }
      });
  });
  // dx = gain (dz - mean(dz) - (x - mean) mean(dz (x - mean)) / (variance + eps)) = gain (dz - level - slope (x - mean))
  float *level = shift + C, *slope = level + C;
  const double count = static_cast<double>(call.pixels);
  for (int64_t c = 0; c < C; ++c) {
    double sum = 0, product = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      sum += call.parts[chunk * 2 * C + c];
      product += call.parts[chunk * 2 * C + C + c];
    }
    const double spread = static_cast<double>(call.variance[c]) + call.eps;
    call.grad_weight[c] = static_cast<float>(product / __builtin_sqrt(spread));
    call.grad_bias[c] = static_cast<float>(sum);
    level[c] = static_cast<float>(sum / count);
    slope[c] = static_cast<float>(product / (spread * count));
  }
  norm_chunks(call.pixels, C, threads, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      channel_blocks(C, [&](int64_t c, auto vectors, auto lanes) __attribute__((always_inline)) {
        constexpr int N = decltype(vectors)::value, L = decltype(lanes)::value;
        using V = Vec<float, L>;
        for (int n = 0; n < N; ++n) {
          const int64_t at = c + n * L, i = p * C + at;
          const V grad = call.grad_residual ? load<float, L>(call.grad_residual + i)
                                            : grad_before_relu<L>(call, i, at, gain, shift);
          const V off = load<float, L>(call.x + i) - load<float, L>(call.mean + at);
          const V rest = grad - load<float, L>(level + at) - off * load<float, L>(slope + at);
          store<float, L>(call.grad_x + i, rest * load<float, L>(gain + at));
        }
      });
  });
}

}  // namespace
