// Attention inside blocks of any size, backward; see block_threads.cuh. The gradient of the map comes as a map, or as
// those of what pooling left of it: dy = (where the extreme lies) + d sum + 2 y d square. With p the weights,
//
//     dp = dy . v      ds = p (dp - sum p dp)      dv = p^T dy
//
// A chunk of value channels gives its own share of ds, so nothing of a whole head is kept. A thread block adds up the
// gradients of M, A and the values' matrices of all its tiles in its own part of the workspace.
#include "block_threads.cuh"

namespace sasa {

// What a query gathers over its keys: t = sum ds x_s, and the sums of ds over rows and columns of the block.
struct Gathered {
  Compute pixels[C], rows[S], columns[S];
};

struct HeadBackward {
  const BlockBackward& call;
  const Head& head;
  const Pixel& pixel;

  // dy of the thread's query for a chunk of channels, in place of y.
  SASA_DEVICE void differentiate(int first, Compute (&y)[kChunk]) const {
    const int64_t channels = head.heads * E;
    for (int i = 0; i < kChunk; i++) {
      const int64_t channel = head.n * E + first + i;
      if (!pixel.inside || first + i >= E) {
        y[i] = 0;
      } else if (call.grad_output.data != nullptr) {
        y[i] = to_float(load_global(at<Element>(call.grad_output, pixel.b, channel, pixel.y(), pixel.x())));
      } else {
        const Compute sum = static_cast<Compute>(load_global(call.grad_sums + channel));
        const Compute square = static_cast<Compute>(2 * load_global(call.grad_sums + channels + channel));
        y[i] = y[i] * square + sum;
        if (load_global(at<uint8_t>(call.position, pixel.b, channel, pixel.row, pixel.column)) == pixel.p) {
          y[i] += to_float(load_global(at<Element>(call.grad_extreme, pixel.b, channel, pixel.row, pixel.column)));
        }
      }
    }
  }

  // As a query: a chunk's share of ds, gathered.
  SASA_DEVICE void gather(const Compute (&dy)[kChunk], Compute delta, Gathered& gathered) const {
    if (!pixel.inside) return;
    each_inside(pixel, [&](int s, int row, int column) {
      Compute dp = 0;
#pragma unroll
      for (int i = 0; i < kChunk; i++) dp += dy[i] * kValues.get(pixel.row0 + s, i);
      const Compute ds = weight(threadIdx.x, pixel.row0, row, column) * (dp - delta);
#pragma unroll
      for (int c = 0; c < C; c++) gathered.pixels[c] += ds * kPixels.get(pixel.row0 + s, c);
      gathered.rows[row] += ds;
      gathered.columns[column] += ds;
    });
  }

  // As a key: dv of a chunk, and what the logits give to the pixel.
  SASA_DEVICE void collect(Compute (&dv)[kChunk], Compute (&grad_pixel)[C]) const {
#pragma unroll
    for (int i = 0; i < kChunk; i++) dv[i] = 0;
    if (!pixel.inside) return;
    Compute value[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; i++) value[i] = kValues.get(threadIdx.x, i);
    each_inside(pixel, [&](int s, int, int) {  // s is the query here
      const int query = pixel.row0 + s;
      const Compute p = weight(query, pixel.row0, pixel.p / S, pixel.p % S);
      Compute dp = 0;
#pragma unroll
      for (int i = 0; i < kChunk; i++) {
        const Compute dy = kOutputs.get(query, i);
        dv[i] += p * dy;
        dp += dy * value[i];
      }
      if (!SASA_CONTENT || call.grad_image.data == nullptr) return;
      const Compute ds = p * (dp - kQueries.get(query, kDelta));
#pragma unroll
      for (int c = 0; c < C; c++) grad_pixel[c] += ds * kQueries.get(query, c) / kUnit<Compute>;
    });
  }

  SASA_DEVICE void write_grad_value(int first, const Compute (&dv)[kChunk]) const {
    if (!pixel.inside) return;
    for (int i = 0; i < kChunk && first + i < E; i++) {
      const Element* to = at<Element>(call.grad_value, pixel.b, head.n * E + first + i, pixel.y(), pixel.x());
      store_global(const_cast<Element*>(to), to_element(dv[i]));
    }
  }

  // What the values give to the pixel.
  SASA_DEVICE void pixel_of_values(int first, const Compute (&dv)[kChunk], Compute (&grad_pixel)[C]) const {
    if (!pixel.inside) return;
    for (int i = 0; i < kChunk && first + i < E; i++) {
#pragma unroll
      for (int c = 0; c < C; c++) grad_pixel[c] += dv[i] * head.value_weight(pixel.p, first + i, c);
    }
  }

  // What M and A give to the pixel, as a query.
  SASA_DEVICE void pixel_of_query(const Gathered& gathered, Compute (&grad_pixel)[C]) const {
    if (!pixel.inside) return;
    const int row0 = S - 1 - pixel.p / S, column0 = S - 1 - pixel.p % S;
    for (int c = 0; c < C; c++) {
      Compute sum = 0;
      for (int i = 0; SASA_CONTENT && i < C; i++) sum += gathered.pixels[i] * load_global(head.content + c * C + i);
#pragma unroll kUnroll
      for (int i = 0; i < S; i++) {
        sum += gathered.rows[i] * load_global(head.rows + (row0 + i) * C + c);
        sum += gathered.columns[i] * load_global(head.columns + (column0 + i) * C + c);
      }
      grad_pixel[c] += sum / kUnit<Compute>;
    }
  }
};

// The part of the workspace that the thread block adds to; each element belongs to one thread.
struct GradientPart {
  Compute* head;
  bool first_tile;

  SASA_DEVICE void add(int i, Compute x) const {
    store_global(head + i, first_tile ? x : load_global(const_cast<const Compute*>(head + i)) + x);
  }

  // Gradients of M and A: kQueries holds what each query gathered.
  SASA_DEVICE void add_gathered() const {
    for (int i = threadIdx.x; i < C * C; i += kThreads) {
      Compute sum = 0;
      for (int p = 0; p < kBlocks * P; p++) sum += kPixels.get(p, i / C) * kQueries.get(p, i % C);
      add(i, sum);
    }
    for (int i = threadIdx.x; i < 2 * O * C; i += kThreads) {
      const bool columns = i >= O * C;
      const int offset = i / C % O - (S - 1), c = i % C;
      Compute sum = 0;
      for (int p = 0; p < kBlocks * P; p++) {
        const int key = offset + (columns ? p % P % S : p % P / S);  // row or column of the key
        if (key >= 0 && key < S) sum += kPixels.get(p, c) * kQueries.get(p, kTerms + (columns ? S : 0) + key);
      }
      add(C * C + i, sum);
    }
  }

  // Gradients of the values' matrices: kOutputs holds dv of a chunk.
  SASA_DEVICE void add_values(int first) const {
    const int count = (E - first < kChunk ? E - first : kChunk) * C;
    for (int i = threadIdx.x; i < P * count; i += kThreads) {
      const int s = i / count, e = i % count / C, c = i % C;
      Compute sum = 0;
      for (int block = 0; block < kBlocks; block++)
        sum += kOutputs.get(block * P + s, e) * kPixels.get(block * P + s, c);
      add(C * (C + 2 * O) + (s * E + first + e) * C + c, sum);
    }
  }
};

// One head of a tile; the gradient of the thread's pixel is added to grad_pixel.
SASA_DEVICE void backward_head(const BlockBackward& call, const Head& head, const Pixel& pixel,
                               const GradientPart& part, Compute (&grad_pixel)[C]) {
  const int t = threadIdx.x;
  const HeadBackward backward{call, head, pixel};
  Gathered gathered = {};
  __syncthreads();
  prepare_query(head, pixel);
  normalise(pixel);
#pragma unroll 1
  for (int first = 0; first < E; first += kChunk) {
    Compute y[kChunk], dv[kChunk];
    __syncthreads();
    prepare_values(call, head, pixel, first);
    __syncthreads();
    mix_values(pixel, y);
    Compute dy[kChunk], delta = 0;
    for (int i = 0; i < kChunk; i++) dy[i] = y[i];
    backward.differentiate(first, dy);
    for (int i = 0; i < kChunk; i++) {
      delta += dy[i] * y[i];
      kOutputs.put(t, i, dy[i]);
    }
    kQueries.put(t, kDelta, delta);
    __syncthreads();
    backward.gather(dy, delta, gathered);
    backward.collect(dv, grad_pixel);
    if (call.w_value == nullptr) {
      backward.write_grad_value(first, dv);
      continue;
    }
    if (call.grad_image.data != nullptr) backward.pixel_of_values(first, dv, grad_pixel);
    __syncthreads();
    for (int i = 0; i < kChunk; i++) kOutputs.put(t, i, dv[i]);
    __syncthreads();
    part.add_values(first);
  }
  if (call.grad_image.data != nullptr) backward.pixel_of_query(gathered, grad_pixel);
  __syncthreads();
  for (int c = 0; c < C; c++) kQueries.put(t, c, gathered.pixels[c]);
#pragma unroll kUnroll
  for (int i = 0; i < S; i++) {
    kQueries.put(t, kTerms + i, gathered.rows[i]);
    kQueries.put(t, kTerms + S + i, gathered.columns[i]);
  }
  __syncthreads();
  part.add_gathered();
}

}  // namespace sasa

SASA_KERNEL(SASA_THREADS)
void sasa_block_backward(SASA_ARGUMENT sasa::BlockBackward call, SASA_ARGUMENT sasa::BlockWorkspace workspace) {
  using namespace sasa;
  const ImageGrid grid(call.shape);
  const int64_t elements = gradient_elements(call.shape, call.w_value != nullptr), heads = call.shape.heads;
#pragma unroll 1
  for (int64_t tile = blockIdx.x; tile < grid.tiles; tile += gridDim.x) {
    const Pixel pixel(call.shape, grid, tile);
    Compute grad_pixel[C] = {};
    __syncthreads();
    load_pixels(call, pixel);
#pragma unroll 1
    for (int64_t n = 0; n < heads; n++) {
      Compute* to = static_cast<Compute*>(workspace.grads) + (blockIdx.x * heads + n) * elements;
      backward_head(call, Head(call, workspace, n), pixel, {to, tile == blockIdx.x}, grad_pixel);
    }
    if (call.grad_image.data == nullptr || !pixel.inside) continue;
    for (int c = 0; c < C; c++) {
      const Element* to = at<Element>(call.grad_image, pixel.b, c, pixel.y(), pixel.x());
      store_global(const_cast<Element*>(to), to_element(grad_pixel[c]));
    }
  }
}
