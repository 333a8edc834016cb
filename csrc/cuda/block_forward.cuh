// Attention inside blocks of any size, forward; see block_threads.cuh. The map at full resolution is written only if it
// is asked for: what max pooling leaves of it, and the sums that a batch norm before it needs, come directly.
#include "block_threads.cuh"

namespace sasa {

// Sums of y and y * y of each block and channel of a chunk, and in double those of all channels.
constexpr Rows kPartial{kLayout.partial(), 2 * kChunk};
SASA_DEVICE unsigned total_at(int i) { return kLayout.totals_offset(sizeof(Compute)) + i * 8; }

struct BlockPooling {
  const BlockForward& call;
  const ImageGrid& grid;
  int64_t channels;

  SASA_DEVICE void clear() const {
    for (int i = threadIdx.x; i < 2 * channels; i += kThreads) store_shared(total_at(i), 0.0);
  }

  // The extreme of each block in channels [first, first + kChunk) of a head; kOutputs holds the outputs.
  SASA_DEVICE void pool(int64_t tile, const Head& head, int first) const {
    for (int i = threadIdx.x; i < kBlocks * kChunk; i += kThreads) {
      const int block = i / kChunk, e = i % kChunk;
      Compute sum = 0, square = 0;
      if (tile * kBlocks + block < grid.blocks && first + e < E) {
        pool_block(tile * kBlocks + block, block * P, e, head.n * E + first + e, sum, square);
      }
      kPartial.put(block, 2 * e, sum);
      kPartial.put(block, 2 * e + 1, square);
    }
    __syncthreads();
    if (call.sums == nullptr) return;
    for (int i = threadIdx.x; i < 2 * kChunk; i += kThreads) {
      if (first + i / 2 >= E) continue;
      double total = 0;
      for (int block = 0; block < kBlocks; block++) total += kPartial.get(block, i);
      const unsigned to = total_at(static_cast<int>(i % 2 * channels + head.n * E + first + i / 2));
      store_shared(to, load_shared<double>(to) + total);
    }
  }

  SASA_DEVICE void pool_block(int64_t index, int row0, int e, int64_t channel, Compute& sum, Compute& square) const {
    const int64_t b = index / (grid.down * grid.across), row = index / grid.across % grid.down;
    const int64_t column = index % grid.across;
    const auto* signs = static_cast<const Compute*>(call.sign);
    const Compute sign = signs != nullptr && load_global(signs + channel) < 0 ? Compute(-1) : Compute(1);
    Compute best = -infinity();
    int position = 0;
    for (int p = 0; p < P; p++) {
      if (row * S + p / S >= call.shape.height || column * S + p % S >= call.shape.width) continue;
      const Compute y = kOutputs.get(row0 + p, e), z = y * sign;
      if (z > best || z != z) best = z, position = p;  // NaN wins and stays, as in max pooling
      sum += y, square += y * y;
    }
    if (call.extreme.data == nullptr) return;
    store_global(const_cast<Element*>(at<Element>(call.extreme, b, channel, row, column)), to_element(best * sign));
    store_global(const_cast<uint8_t*>(at<uint8_t>(call.position, b, channel, row, column)),
                 static_cast<uint8_t>(position));
  }

  SASA_DEVICE void write_sums(const BlockWorkspace& workspace) const {
    for (int i = threadIdx.x; i < 2 * channels; i += kThreads) {
      store_global(static_cast<double*>(workspace.sums) + blockIdx.x * 2 * channels + i,
                   load_shared<double>(total_at(i)));
    }
  }
};

SASA_DEVICE void write_output(const BlockForward& call, const Head& head, const Pixel& pixel, int first,
                              const Compute (&y)[kChunk]) {
  for (int i = 0; i < kChunk && first + i < E; i++) {
    const Element* to = at<Element>(call.output, pixel.b, head.n * E + first + i, pixel.y(), pixel.x());
    store_global(const_cast<Element*>(to), to_element(y[i]));
  }
}

SASA_DEVICE void write_log_sum(const BlockForward& call, const Head& head, const Pixel& pixel, Compute log_sum_exp) {
  const int64_t row = (pixel.b * head.heads + head.n) * call.shape.height + pixel.y();
  store_global(static_cast<Compute*>(call.logsumexp) + row * call.shape.width + pixel.x(), log_sum_exp);
}

// One head of a tile.
SASA_DEVICE void forward_head(const BlockForward& call, const Head& head, const Pixel& pixel, int64_t tile,
                              const BlockPooling& pooling) {
  prepare_query(head, pixel);
  const Compute log_sum_exp = normalise(pixel);
  if (call.logsumexp != nullptr && pixel.inside) write_log_sum(call, head, pixel, log_sum_exp);
#pragma unroll 1
  for (int first = 0; first < E; first += kChunk) {
    __syncthreads();
    prepare_values(call, head, pixel, first);
    __syncthreads();
    Compute y[kChunk];
    mix_values(pixel, y);
    if (call.output.data != nullptr && pixel.inside) write_output(call, head, pixel, first, y);
    if (call.extreme.data == nullptr && call.sums == nullptr) continue;
    for (int i = 0; i < kChunk; i++) kOutputs.put(threadIdx.x, i, y[i]);
    __syncthreads();
    pooling.pool(tile, head, first);
  }
}

}  // namespace sasa

SASA_KERNEL(SASA_THREADS)
void sasa_block_forward(SASA_ARGUMENT sasa::BlockForward call, SASA_ARGUMENT sasa::BlockWorkspace workspace) {
  using namespace sasa;
  const ImageGrid grid(call.shape);
  const BlockPooling pooling{call, grid, call.shape.heads * E};
  if (call.sums != nullptr) pooling.clear();
#pragma unroll 1
  for (int64_t tile = blockIdx.x; tile < grid.tiles; tile += gridDim.x) {
    const Pixel pixel(call.shape, grid, tile);
    __syncthreads();
    load_pixels(call, pixel);
    __syncthreads();
#pragma unroll 1
    for (int64_t n = 0; n < call.shape.heads; n++) {
      forward_head(call, Head(call, workspace, n), pixel, tile, pooling);
    }
  }
  __syncthreads();
  if (call.sums != nullptr) pooling.write_sums(workspace);
}
