// The stem's attention on tensor cores, backward: gradients of the weights from those of what pooling left of the map,
// dy = (where the extreme lies) + d sum + 2 y d square. See block_tensor_tile.cuh.
//
// Every gradient is a sum over blocks of something that a lane holds whole or in part, so it is kept in the lane's
// registers and put together once, at the end of the launch.
#include "block_tensor_tile.cuh"

namespace sasa {

struct LaneGradients {
  float content[C][C] = {};                   // of M, a part of the sum
  float rows[3][C] = {}, columns[2][C] = {};  // of A, by offset, as in LaneWeights
  float values[2][4][C] = {};                 // of the values' matrices, of channel g or g + 8 and key k
};

// What pooling's gradients are in channels g and g + 8; those of the sums lie in shared memory, to spare registers.
struct LaneOutputGradients {
  const BlockBackward& call;
  int first;        // channel g of the head
  unsigned shared;  // d sum of both channels, 2 d square of both

  SASA_DEVICE LaneOutputGradients(const BlockBackward& given, int n, int g, unsigned place)
      : call(given), first(n * E + g), shared(place) {
    Colour sums;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const double* sum = call.grad_sums + first + 8 * j;
      sums.at[j] = static_cast<float>(load_global(sum));
      sums.at[j + 2] = static_cast<float>(2 * load_global(sum + call.shape.heads * E));
    }
    store_shared(shared, sums);
  }

  // dy^T in place of y^T, channels by queries; zeros beyond the image.
  template <bool WHOLE>
  SASA_DEVICE void differentiate(float (&y)[2][4], const Strip& strip, int block, int t) const {
    const auto sums = load_shared<Colour>(shared);
    const int column = strip.first + block;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int channel = first + 8 * j;
      const int position = load_global(at<uint8_t>(call.position, strip.b, channel, strip.row, column));
      const float extreme = to_float(load_global(at<Element>(call.grad_extreme, strip.b, channel, strip.row, column)));
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 2 * j; i < 2 * j + 2; i++) {
          const int p = query_of(t, half, i);
          y[half][i] = fmaf(y[half][i], sums.at[j + 2], sums.at[j]);
          if (position == p) y[half][i] += extreme;
          if (!WHOLE && !strip.holds(block, p)) y[half][i] = 0;
        }
      }
    }
  }
};

// Divides p by its sums over the keys.
SASA_DEVICE void normalise(float (&p)[2][4]) {
  unsigned packed[2][2];
  pack_weights(packed, p);
  const unsigned a[4] = {packed[0][0], packed[1][0], packed[0][1], packed[1][1]};
  float sums[4] = {};
  multiply<Element>(sums, a, kOnes, kOnes);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float inverse = reciprocal_approx(sums[2 * half]);
#pragma unroll
    for (int k = 0; k < 4; k++) p[half][k] *= inverse;
  }
}

// dp = dy . v, where the logits lie: dp[pair of keys], queries (g, g + 8) by keys.
SASA_DEVICE void products(float (&dp)[2][4], const unsigned (&dy)[4], const unsigned (&values)[4]) {
  const unsigned a[4] = {transpose(dy[0]), transpose(dy[2]), transpose(dy[1]), transpose(dy[3])};
#pragma unroll
  for (int pair = 0; pair < 2; pair++) {
#pragma unroll
    for (int i = 0; i < 4; i++) dp[pair][i] = 0;
    const unsigned b0 = transpose(values[2 * pair]), b1 = transpose(values[2 * pair + 1]);
    multiply<Element>(dp[pair], a, b0, b1);
  }
}

// dv^T = dy^T . p: dv[pair of keys], channels (g, g + 8) by keys.
SASA_DEVICE void grad_of_values(float (&dv)[2][4], const unsigned (&dy)[4], const unsigned (&p)[2][2]) {
#pragma unroll
  for (int pair = 0; pair < 2; pair++) {
#pragma unroll
    for (int i = 0; i < 4; i++) dv[pair][i] = 0;
    const unsigned b0 = transpose(p[0][pair]), b1 = transpose(p[1][pair]);
    multiply<Element>(dv[pair], dy, b0, b1);
  }
}

// ds = p (dp - sum p dp), in place of p.
SASA_DEVICE void differentiate_softmax(float (&p)[2][4], const float (&dp)[2][4]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float delta = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) delta = fmaf(p[half][k], dp[k / 2][2 * half + k % 2], delta);
    delta += shuffle_xor(delta, 1);
    delta += shuffle_xor(delta, 2);
#pragma unroll
    for (int k = 0; k < 4; k++) p[half][k] *= dp[k / 2][2 * half + k % 2] - delta;
  }
}

// Adds what one block gives to the lane's gradients.
SASA_DEVICE void add_block(LaneGradients& grads, const LanePixels& pixels, const float (&ds)[2][4],
                           const float (&dv)[2][4]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float seen[C] = {};  // sum ds x_s
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
      for (int c = 0; c < C; c++) {
        seen[c] = fmaf(ds[half][k], pixels.key[k][c], seen[c]);
        grads.values[half][k][c] = fmaf(dv[k / 2][2 * half + k % 2], pixels.key[k][c], grads.values[half][k][c]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2 * C; i++) {
      const int j = i / C, c = i % C;  // a pair of rows, or of columns
      const float of_row = ds[half][2 * j] + ds[half][2 * j + 1], of_column = ds[half][j] + ds[half][j + 2];
      grads.rows[j - half + 1][c] = fmaf(of_row, pixels.query[half][c], grads.rows[j - half + 1][c]);
      grads.columns[j][c] = fmaf(of_column, pixels.query[half][c], grads.columns[j][c]);
    }
#pragma unroll
    for (int i = 0; SASA_CONTENT && i < C * C; i++) {
      grads.content[i / C][i % C] = fmaf(pixels.query[half][i / C], seen[i % C], grads.content[i / C][i % C]);
    }
  }
}

// Puts the lanes' gradients together into the thread block's part; `shared` is the warp's own memory, 5 floats a lane.
struct GradientPart {
  float* head;  // nullptr: none of this warp
  unsigned shared;
  int g, t;

  SASA_DEVICE void write(LaneGradients& grads) const {
    const int lane = 4 * g + t;
#pragma unroll
    for (int i = 0; i < C * C; i++) {
      float x = grads.content[i / C][i % C];
#pragma unroll
      for (int step = 16; step > 0; step /= 2) x += shuffle_xor(x, step);
      if (lane == 0 && head != nullptr) store_global(head + i, x);
    }
#pragma unroll
    for (int c = 0; c < C; c++) {
#pragma unroll
      for (int i = 0; i < 5; i++) store_shared(at(i, lane), i < 3 ? grads.rows[i][c] : grads.columns[i - 3][c]);
      __syncwarp();
      if (lane < 2 * O && head != nullptr) store_global(head + C * C + lane * C + c, sum_of_offset(lane));
      __syncwarp();
    }
    if (head == nullptr) return;
    float* matrices = head + C * (C + 2 * O);
#pragma unroll
    for (int i = 0; i < 8 * C; i++) {
      const int half = i / (4 * C), k = i / C % 4, c = i % C;
      store_global(matrices + (key_of(t, k) * E + g + 8 * half) * C + c, grads.values[half][k][c]);
    }
  }

  SASA_DEVICE unsigned at(int i, int lane) const { return shared + (i * 32 + lane) * 4; }

  // Of all lanes' rows (i < O), or columns, that are at one offset.
  SASA_DEVICE float sum_of_offset(int i) const {
    const bool columns = i >= O;
    const int offset = i % O - (S - 1);
    float sum = 0;
#pragma unroll 1
    for (int lane = 0; lane < 32; lane++) {
#pragma unroll
      for (int j = 0; j < 3; j++) {
        if (columns && j == 2) continue;
        const int found = columns ? column_offset(lane / 4, lane % 4, j) : row_offset(lane / 4, lane % 4, j);
        if (found == offset) sum += load_shared<float>(at(columns ? 3 + j : j, lane));
      }
    }
    return sum;
  }
};

// One block.
template <bool WHOLE>
SASA_DEVICE void differentiate(LaneGradients& grads, const LaneOutputGradients& outputs, const LaneWeights& weights,
                               const Strip& strip, int block, int g, int t) {
  const LanePixels pixels(weights, block, g, t);
  float p[2][4], y[2][4], dp[2][4], dv[2][4];
  unsigned values[4], packed[2][2], dy[4];
  pixels.exponentials<WHOLE>(p, weights, strip, block, t);
  normalise(p);
  pixels.values(values, weights);
  pack_weights(packed, p);
  mix(y, values, packed);
  outputs.differentiate<WHOLE>(y, strip, block, t);
#pragma unroll
  for (int j = 0; j < 4; j++) dy[j] = pack<Element>(y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
  products(dp, dy, values);
  grad_of_values(dv, dy, packed);
  differentiate_softmax(p, dp);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (!WHOLE && !strip.holds(block, g + i / 4 * 8)) p[i / 4][i % 4] = 0;
  }
  add_block(grads, pixels, p, dv);
}

}  // namespace sasa

// Registers for twelve warps on a multiprocessor; with four channels for eight.
#define SASA_BOUNDS 32 * SASA_HEADS, (SASA_C == 4 ? 8 : 12) / SASA_HEADS
SASA_KERNEL(SASA_BOUNDS)
void sasa_block_tensor_backward(SASA_ARGUMENT sasa::BlockBackward call, SASA_ARGUMENT sasa::BlockWorkspace workspace) {
  using namespace sasa;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int64_t heads = call.shape.heads;
  const int given = blockIdx.y * kWarps + warp, n = given < heads ? given : 0;  // warps without a head do head 0
  const Strips strips(call.shape);
  const LaneWeights weights(call, workspace, n, g, t, {1, 1});
  const LaneOutputGradients outputs(call, n, g, weights.behind());
  LaneGradients grads;
#pragma unroll 1
  for (int i = blockIdx.x; i < strips.count; i += gridDim.x) {
    const Strip strip(call.shape, strips, i);
    __syncthreads();
    stage(call.image, strip);
    __syncthreads();
#pragma unroll 1
    for (int block = 0; block < strip.blocks; block++) {
      if (strip.is_whole(block)) {
        differentiate<true>(grads, outputs, weights, strip, block, g, t);
      } else {
        differentiate<false>(grads, outputs, weights, strip, block, g, t);
      }
    }
  }
  __syncthreads();
  float* part = static_cast<float*>(workspace.grads) + (blockIdx.x * heads + n) * gradient_elements(call.shape, true);
  GradientPart{given < heads ? part : nullptr, static_cast<unsigned>(warp * 5 * 32 * 4), g, t}.write(grads);
}
