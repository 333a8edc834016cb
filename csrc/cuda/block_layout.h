// Shared memory of block attention for blocks of any size (block_threads.cuh): rows of numbers, one of each thread, at
// odd strides, which spread them over the banks. For host and device; places and strides are in numbers.
#pragma once

namespace sasa {

struct BlockLayout {
  int block, channels, chunk, threads;  // side of a block, image channels, value channels at once

  static constexpr int odd(int n) { return n | 1; }
  constexpr int blocks() const { return threads / (block * block); }

  constexpr int pixel_stride() const { return odd(channels); }
  constexpr int query_stride() const { return odd(channels + 2 * block + 3); }
  constexpr int chunk_stride() const { return odd(chunk); }

  constexpr int pixels() const { return 0; }
  constexpr int queries() const { return threads * pixel_stride(); }
  constexpr int values() const { return queries() + threads * query_stride(); }
  constexpr int outputs() const { return values() + threads * chunk_stride(); }
  constexpr int end() const { return outputs() + threads * chunk_stride(); }

  // Of the forward pass besides: two sums of each block and channel of a chunk, then doubles, two of each channel.
  constexpr int partial() const { return end(); }
  constexpr unsigned totals_offset(unsigned bytes) const {
    return ((partial() + 2 * blocks() * chunk) * bytes + 7) / 8 * 8;
  }
};

// The kernels on tensor cores (block_tensor_tile.cuh): pixels from one row of a strip to the next; bytes of the strip,
// or at the end of the backward pass of 5 floats for each lane; and bytes of each head's weights, and 16 of each lane,
// behind it.
constexpr int tensor_row_pixels(int columns) { return columns * 4 + (columns % 2 == 0 ? 4 : 0); }
constexpr int tensor_strip_bytes(int columns, int heads) {
  const int strip = 4 * tensor_row_pixels(columns) * 16, sums = heads * 32 * 5 * 4;
  return strip > sums ? strip : sums;
}
constexpr int tensor_weight_bytes(int channels) { return channels * 16 + 32 * (8 * channels * 4 + 16); }

}  // namespace sasa
