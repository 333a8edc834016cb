// Batch norm in training, with the shortcut and the ReLU behind it, on channels_last float32 maps:
//
//     y = relu((x - mean) / sqrt(variance + eps) * weight + bias + residual)
//
// where mean and variance are those of the batch.
//
// A map is processed in chunks that stay in cache. They depend on the shape alone, so no sum depends on the number of
// threads. The mean of a chunk, and its squared deviations from it, take two passes; chunks are combined in double.
#pragma once
#include "tiles.h"

namespace {

using sasa::NormBackward;
using sasa::NormForward;

// Call f(i, c, lanes) for each vector of channels of pixels [begin, end): i is the index of its first element in the
// map, c its first channel. Whole vectors of channels, in blocks of four and singly, then single channels.
template <class F>
SASA_INLINE void each_channel_vector(int64_t begin, int64_t end, int64_t channels, F&& f) {
  constexpr int L = kLanes<float>, kBlock = 4;
  for (int64_t p = begin; p < end; ++p) {
    int64_t c = 0;
    for (; c + kBlock * L <= channels; c += kBlock * L) {
#pragma GCC unroll 4
      for (int n = 0; n < kBlock; ++n) f(p * channels + c + n * L, c + n * L, Int<L>{});
    }
    for (; c + L <= channels; c += L) f(p * channels + c, c, Int<L>{});
    for (; c < channels; ++c) f(p * channels + c, c, Int<1>{});
  }
}

// Call f(chunk, first pixel, last pixel) for each chunk, on all threads.
template <class F>
void each_chunk(int64_t pixels, int64_t channels, const sasa::Parallel& threads, F&& f) {
  const int64_t each = sasa::norm_chunk_pixels(channels);
  parallel(threads, sasa::norm_chunks(pixels, channels), [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      f(chunk, chunk * each, (chunk + 1) * each < pixels ? (chunk + 1) * each : pixels);
  });
}

// Add to sums in memory. Pixels are processed in memory order, so that the map is read as a stream.
template <int L>
SASA_INLINE void add_to(float* sum, Vec<float, L> value) {
  store<float, L>(sum, load<float, L>(sum) + value);
}

// Mean and squared deviations of a chunk, for each channel.
void chunk_statistics(const NormForward& call, int64_t begin, int64_t end, float* mean, float* squares) {
  const int64_t C = call.channels;
  float* rest = static_cast<float*>(sasa::scratch(static_cast<size_t>(C) * sizeof(float)));
  clear(mean, C);
  clear(squares, C);
  clear(rest, C);
  each_channel_vector(begin, end, C, [&](int64_t i, int64_t c, auto lanes) __attribute__((always_inline)) {
    constexpr int L = decltype(lanes)::value;
    add_to<L>(mean + c, load<float, L>(call.x + i));
  });
  const float part = 1.0f / static_cast<float>(end - begin);
  for (int64_t c = 0; c < C; ++c) mean[c] *= part;
  each_channel_vector(begin, end, C, [&](int64_t i, int64_t c, auto lanes) __attribute__((always_inline)) {
    constexpr int L = decltype(lanes)::value;
    const Vec<float, L> off = load<float, L>(call.x + i) - load<float, L>(mean + c);
    add_to<L>(rest + c, off);  // the rounding error of the mean
    add_to<L>(squares + c, off * off);
  });
  for (int64_t c = 0; c < C; ++c) {
    const float missing = rest[c] * part;
    mean[c] += missing;
    squares[c] -= rest[c] * missing;
  }
}

void norm_statistics(const NormForward& call, const sasa::Parallel& threads) {
  const int64_t C = call.channels;
  each_chunk(call.pixels, C, threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    float* mean = call.parts + chunk * 2 * C;
    chunk_statistics(call, begin, end, mean, mean + C);
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

// The normalised map is x * gain + shift.
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
  float *gain = call.parts, *shift = call.parts + C;  // the statistics of the chunks are not needed any more
  gain_and_shift(call, gain, shift);
  each_chunk(call.pixels, C, threads, [&](int64_t, int64_t begin, int64_t end) {
    each_channel_vector(begin, end, C, [&](int64_t i, int64_t c, auto lanes) __attribute__((always_inline)) {
      constexpr int L = decltype(lanes)::value;
      using V = Vec<float, L>;
      V y = load<float, L>(call.x + i) * load<float, L>(gain + c) + load<float, L>(shift + c);
      if (call.residual) y += load<float, L>(call.residual + i);
      if (call.relu) y = y < V{} ? V{} : y;
      store<float, L>(call.y + i, y);
    });
  });
}

// The gradient before the ReLU: that of y where y is positive or NaN, as in torch. Without a residual, y is computed
// from x again.
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
  each_chunk(call.pixels, C, threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    float *sum = call.parts + chunk * 2 * C, *product = sum + C;
    clear(sum, 2 * C);
    each_channel_vector(begin, end, C, [&](int64_t i, int64_t c, auto lanes) __attribute__((always_inline)) {
      constexpr int L = decltype(lanes)::value;
      const Vec<float, L> grad = grad_before_relu<L>(call, i, c, gain, shift);
      if (call.grad_residual) store<float, L>(call.grad_residual + i, grad);
      add_to<L>(sum + c, grad);
      add_to<L>(product + c, grad * (load<float, L>(call.x + i) - load<float, L>(call.mean + c)));
    });
  });
  // With dz the gradient before the ReLU, dx = gain (dz - level - slope (x - mean)), where
  // level = mean(dz) and slope = mean(dz (x - mean)) / (variance + eps).
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
  each_chunk(call.pixels, C, threads, [&](int64_t, int64_t begin, int64_t end) {
    each_channel_vector(begin, end, C, [&](int64_t i, int64_t c, auto lanes) __attribute__((always_inline)) {
      constexpr int L = decltype(lanes)::value;
      using V = Vec<float, L>;
      const V grad =
          call.grad_residual ? load<float, L>(call.grad_residual + i) : grad_before_relu<L>(call, i, c, gain, shift);
      const V off = load<float, L>(call.x + i) - load<float, L>(call.mean + c);
      const V rest = grad - load<float, L>(level + c) - off * load<float, L>(slope + c);
      store<float, L>(call.grad_x + i, rest * load<float, L>(gain + c));
    });
  });
}

}  // namespace
