// The gradient of the weights of a 1 x 1 convolution, which is the product grad^T x over all pixels.
//
// A chunk of pixels is packed into panels: of `grad` kTileRows channels, of `x` two vectors of channels. A tile of
// results of that size stays in registers for a chunk. Meanwhile the next chunk is prefetched, because such a short
// product with large maps would otherwise wait for memory most of the time.
#pragma once
#include "tiles.h"

namespace {

using sasa::PointwiseGradient;

constexpr int kTileRows = kRegisters >= 32 ? 12 : 6, kTileVectors = 2, kTileColumns = kTileVectors * kLanes<float>;
constexpr int64_t kChunkPixels = 128;
constexpr int64_t kLargestBlock = 256, kSmallestBlock = 64;  // channels

// A block of the result, and the pixels that are summed.
struct WeightBlock {
  int64_t row, rows, column, columns, begin, end;
  float* total;  // (O, I)
};

// One address for each pixel.
struct PixelStream {
  const float* data;
  int64_t stride;
};

// out (+)= grad^T x for a tile. grad: (pixels, kTileRows), x: (pixels, kTileColumns), both packed.
SASA_INLINE void weight_tile(int64_t pixels, const float* grad, const float* x, float* out, int64_t row, bool add,
                             PixelStream next_grad, PixelStream next_x) {
  constexpr int L = kLanes<float>;
  Vec<float, L> sum[kTileRows][kTileVectors] = {};
  for (int64_t p = 0; p < pixels; ++p, grad += kTileRows, x += kTileColumns) {
    __builtin_prefetch(next_grad.data + p * next_grad.stride, 0, 2);
    __builtin_prefetch(next_x.data + p * next_x.stride, 0, 2);
    Vec<float, L> of_x[kTileVectors];
#pragma GCC unroll 2
    for (int n = 0; n < kTileVectors; ++n) {
      of_x[n] = load<float, L>(x + n * L);
      keep_in_register(of_x[n]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
      for (int n = 0; n < kTileVectors; ++n) sum[r][n] += of_x[n] * grad[r];
  }
#pragma GCC unroll 12
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < kTileVectors; ++n) {
      float* to = out + r * row + n * L;
      store<float, L>(to, add ? load<float, L>(to) + sum[r][n] : sum[r][n]);
    }
}

// A tile at the border of the result, of fewer rows or columns.
inline void border_tile(int64_t pixels, const float* grad, const float* x, float* out, int64_t row, bool add,
                        int64_t rows, int64_t columns) {
  float tile[kTileRows * kTileColumns];
  weight_tile(pixels, grad, x, tile, kTileColumns, false, {grad, 0}, {x, 0});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) out[r * row + c] = (add ? out[r * row + c] : 0) + tile[r * kTileColumns + c];
}

// Copy `channels` channels of each pixel into panels of WIDTH, (panels, pixels, WIDTH); the rest of the last is zero.
template <int WIDTH>
SASA_INLINE void pack_panels(const float* map, int64_t row, int64_t pixels, int64_t channels, float* to) {
  const int64_t whole = channels / WIDTH;
  for (int64_t p = 0; p < pixels; ++p) {
    const float* from = map + p * row;
    float* panel = to + p * WIDTH;
    for (int64_t n = 0; n < whole; ++n, from += WIDTH, panel += pixels * WIDTH)
      memcpy(panel, from, WIDTH * sizeof(float));
    for (int64_t c = 0; whole * WIDTH < channels && c < WIDTH; ++c)
      panel[c] = whole * WIDTH + c < channels ? from[c] : 0.0f;
  }
}

void add_chunk(const PointwiseGradient& call, const WeightBlock& block, int64_t begin, float* grad, float* x) {
  const int64_t O = call.out_channels, I = call.in_channels;
  const int64_t pixels = begin + kChunkPixels < block.end ? kChunkPixels : block.end - begin;
  const int64_t next = block.end - begin - pixels >= kChunkPixels ? begin + kChunkPixels : begin;
  pack_panels<kTileRows>(call.grad + begin * O + block.row, O, pixels, block.rows, grad);
  for (int64_t c = 0; c < block.columns; c += kTileColumns) {
    const int64_t column = block.column + c, columns = block.columns - c;
    pack_panels<kTileColumns>(call.x + begin * I + column, I, pixels, columns < kTileColumns ? columns : kTileColumns,
                              x);
    const bool last = columns <= kTileColumns;
    const float* next_x = last ? call.x + next * I + block.column : call.x + begin * I + column + kTileColumns;
    for (int64_t r = 0; r < block.rows; r += kTileRows) {
      const int64_t rows = block.rows - r, tile = r / kTileRows;
      const float* panel = grad + r * pixels;
      float* out = block.total + (block.row + r) * I + column;
      const bool add = begin > block.begin;
      if (rows < kTileRows || columns < kTileColumns) {
        border_tile(pixels, panel, x, out, I, add, rows < kTileRows ? rows : kTileRows,
                    columns < kTileColumns ? columns : kTileColumns);
        continue;
      }
      const PixelStream ahead_x = {next_x + tile * kLanes<float>, I},
                        ahead_grad = {call.grad + next * O + block.row + r, O};
      const PixelStream none = {x, 0};
      weight_tile(pixels, panel, x, out, I, add, c == 0 ? ahead_grad : none, tile < kTileVectors ? ahead_x : none);
    }
  }
}

void add_block(const PointwiseGradient& call, const WeightBlock& block) {
  float *grad = nullptr, *x = nullptr;
  allocate_scratch([&](Arena& arena) {
    grad = arena.take<float>(kChunkPixels * round_up(block.rows, kTileRows));
    x = arena.take<float>(kChunkPixels * kTileColumns);
  });
  for (int64_t begin = block.begin; begin < block.end; begin += kChunkPixels) add_chunk(call, block, begin, grad, x);
}

// The length of equal blocks of at most `most` channels, a multiple of `step`.
inline int64_t block_length(int64_t channels, int64_t most, int64_t step) {
  const int64_t blocks = (channels + most - 1) / most;
  return round_up((channels + blocks - 1) / blocks, step);
}

void pointwise_gradient(const PointwiseGradient& call, const sasa::Parallel& threads) {
  const int64_t O = call.out_channels, I = call.in_channels;
  const int64_t parts = sasa::pointwise_parts(call.pixels), part = (call.pixels + parts - 1) / parts;
  int64_t rows = 0, columns = 0, down = 0, across = 0;
  for (int64_t most = kLargestBlock; most >= kSmallestBlock;
       most /= 2) {  // until there are four blocks for each thread
    rows = block_length(O, most, kTileRows), columns = block_length(I, most, kTileColumns);
    down = (O + rows - 1) / rows, across = (I + columns - 1) / columns;
    if (parts * down * across >= 4 * threads.threads) break;
  }
  parallel(threads, parts * down * across, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t n = task / (down * across), row = task / across % down * rows, column = task % across * columns;
      const int64_t end = (n + 1) * part;
      add_block(call, {row, row + rows < O ? rows : O - row, column, column + columns < I ? columns : I - column,
                       n * part, end < call.pixels ? end : call.pixels, call.parts + n * O * I});
    }
  });
}

}  // namespace
