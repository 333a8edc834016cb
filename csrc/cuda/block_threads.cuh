// Attention inside blocks of any size: what forward and backward share. A thread takes one pixel of a block of the
// image, as query and as key; as many whole blocks as fit share a thread block, which goes through the heads one by one
// and through the value channels SASA_CHUNK at a time. The weights of the softmax are computed again for each chunk
// rather than kept.
//
// The build gives SASA_STORAGE, SASA_S the side of a block, SASA_C channels of the image, SASA_E value channels of a
// head, SASA_CONTENT whether there is q.k, SASA_CHUNK and SASA_THREADS.
#pragma once
#include "block_layout.h"
#include "elements.cuh"
#include "workspaces.h"

namespace sasa {

constexpr int S = SASA_S, P = S * S, C = SASA_C, E = SASA_E, O = 2 * S - 1;
constexpr int kChunk = SASA_CHUNK, kThreads = SASA_THREADS, kBlocks = kThreads / P;  // blocks of a tile
constexpr int kUnroll = S <= 4 ? S : 1;

// Rows of shared memory, one of each thread.
struct Rows {
  int first, stride;
  SASA_DEVICE Compute get(int row, int i) const {
    return load_shared<Compute>(static_cast<unsigned>(first + row * stride + i) * unsigned(sizeof(Compute)));
  }
  SASA_DEVICE void put(int row, int i, Compute x) const {
    store_shared(static_cast<unsigned>(first + row * stride + i) * unsigned(sizeof(Compute)), x);
  }
};
constexpr BlockLayout kLayout{S, C, kChunk, kThreads};
constexpr Rows kPixels{kLayout.pixels(), kLayout.pixel_stride()};
// Of a query: u = M^T x, C; its position terms, S of rows and S of columns; maximum, 1 / sum, delta.
constexpr Rows kQueries{kLayout.queries(), kLayout.query_stride()};
constexpr int kTerms = C, kMaximum = C + 2 * S, kInverse = kMaximum + 1, kDelta = kMaximum + 2;
constexpr Rows kValues{kLayout.values(), kLayout.chunk_stride()};
constexpr Rows kOutputs{kLayout.outputs(), kLayout.chunk_stride()};

struct ImageGrid {
  int64_t down, across, blocks, tiles;
  SASA_DEVICE explicit ImageGrid(const BlockShape& shape)
      : down((shape.height + S - 1) / S), across((shape.width + S - 1) / S) {
    blocks = shape.batch * down * across;
    tiles = (blocks + kBlocks - 1) / kBlocks;
  }
};

// The pixel of the calling thread.
struct Pixel {
  int64_t b, row, column;  // of its block, in blocks
  int block, p, row0;      // place in the tile and in the block; the block's first row of shared memory
  int64_t height, width;   // of the part of the block that is in the image
  bool exists, inside;     // the block; the pixel

  SASA_DEVICE Pixel(const BlockShape& shape, const ImageGrid& grid, int64_t tile) {
    block = threadIdx.x / P, p = threadIdx.x % P, row0 = block * P;
    const int64_t i = tile * kBlocks + block;
    exists = block < kBlocks && i < grid.blocks;
    b = i / (grid.down * grid.across), row = i / grid.across % grid.down, column = i % grid.across;
    height = exists ? shape.height - row * S : 0, width = exists ? shape.width - column * S : 0;
    inside = p / S < height && p % S < width;
  }
  SASA_DEVICE int64_t y() const { return row * S + p / S; }
  SASA_DEVICE int64_t x() const { return column * S + p % S; }
};

// The head's M and A, and its value matrices.
struct Head {
  const Compute *content, *rows, *columns, *w_value;
  int64_t n, heads;

  template <class Call>
  SASA_DEVICE Head(const Call& call, const BlockWorkspace& workspace, int64_t head) : n(head), heads(call.shape.heads) {
    content = static_cast<const Compute*>(workspace.folded) + n * folded_elements(call.shape);
    rows = content + C * C;
    columns = rows + O * C;
    w_value = static_cast<const Compute*>(call.w_value);
  }
  SASA_DEVICE Compute value_weight(int s, int e, int c) const {
    return load_global(w_value + ((s * heads + n) * E + e) * C + c);
  }
};

template <class Call>
SASA_DEVICE void load_pixels(const Call& call, const Pixel& pixel) {
  for (int c = 0; c < C; c++) {
    const Compute x =
        pixel.inside ? to_float(load_global(at<Element>(call.image, pixel.b, c, pixel.y(), pixel.x()))) : Compute(0);
    kPixels.put(threadIdx.x, c, x);
  }
}

// The thread's row of kQueries, but for maximum, sum and delta.
SASA_DEVICE void prepare_query(const Head& head, const Pixel& pixel) {
  const int t = threadIdx.x;
  for (int i = 0; SASA_CONTENT && i < C; i++) {
    Compute sum = 0;
    for (int c = 0; c < C; c++) sum += kPixels.get(t, c) * load_global(head.content + c * C + i);
    kQueries.put(t, i, sum);
  }
  for (int i = 0; i < 2 * S; i++) {
    const int offset = S - 1 + (i < S ? i - pixel.p / S : i - S - pixel.p % S);
    const Compute* embedding = (i < S ? head.rows : head.columns) + offset * C;
    Compute sum = 0;
    for (int c = 0; c < C; c++) sum += kPixels.get(t, c) * load_global(embedding + c);
    kQueries.put(t, kTerms + i, sum);
  }
}

// The logit of the query in row p of kQueries with pixel s of the block that begins in row0.
SASA_DEVICE Compute logit(int p, int row0, int row, int column) {
  Compute sum = kQueries.get(p, kTerms + row) + kQueries.get(p, kTerms + S + column);
#pragma unroll
  for (int c = 0; SASA_CONTENT && c < C; c++) sum += kQueries.get(p, c) * kPixels.get(row0 + row * S + column, c);
  return sum;
}

// Calls f(s, row, column) for each pixel of the block that is in the image.
template <class F>
SASA_DEVICE void each_inside(const Pixel& pixel, F&& f) {
#pragma unroll kUnroll
  for (int row = 0; row < S; row++) {
#pragma unroll kUnroll
    for (int column = 0; column < S; column++) {
      if (row < pixel.height && column < pixel.width) f(row * S + column, row, column);
    }
  }
}

// Maximum and inverse sum of the thread's softmax, into its row of kQueries; the log-sum-exp is returned.
SASA_DEVICE Compute normalise(const Pixel& pixel) {
  const int t = threadIdx.x;
  Compute maximum = -infinity(), sum = 0;
  each_inside(pixel, [&](int, int row, int column) { maximum = larger(maximum, logit(t, pixel.row0, row, column)); });
  maximum = finite_shift(maximum);
  each_inside(pixel,
              [&](int, int row, int column) { sum += exponential(logit(t, pixel.row0, row, column) - maximum); });
  kQueries.put(t, kMaximum, maximum);
  kQueries.put(t, kInverse, 1 / sum);
  return log_sum(maximum, sum);
}

SASA_DEVICE Compute weight(int p, int row0, int row, int column) {
  return exponential(logit(p, row0, row, column) - kQueries.get(p, kMaximum)) * kQueries.get(p, kInverse);
}

// Channels [first, first + kChunk) of the values of the thread's pixel, as a key.
template <class Call>
SASA_DEVICE void prepare_values(const Call& call, const Head& head, const Pixel& pixel, int first) {
  for (int i = 0; i < kChunk; i++) {
    const int e = first + i;
    Compute value = 0;
    if (pixel.inside && e < E) {
      if (head.w_value == nullptr) {
        value = to_float(load_global(at<Element>(call.value, pixel.b, head.n * E + e, pixel.y(), pixel.x())));
      } else {
        for (int c = 0; c < C; c++) value += head.value_weight(pixel.p, e, c) * kPixels.get(threadIdx.x, c);
      }
    }
    kValues.put(threadIdx.x, i, value);
  }
}

// y of the thread's query for a chunk of channels.
SASA_DEVICE void mix_values(const Pixel& pixel, Compute (&y)[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk; i++) y[i] = 0;
  each_inside(pixel, [&](int s, int row, int column) {
    const Compute p = weight(threadIdx.x, pixel.row0, row, column);
#pragma unroll
    for (int i = 0; i < kChunk; i++) y[i] += p * kValues.get(pixel.row0 + s, i);
  });
}

}  // namespace sasa
