// The stem's attention on tensor cores, forward: the extreme of each block, where it lies, and the sums of y and y * y.
// See block_tensor_tile.cuh.
#include "block_tensor_tile.cuh"

namespace sasa {

// y^T of one block, divided by the sums of p, which a product with ones gives where they are needed.
SASA_DEVICE void outputs(float (&y)[2][4], const LanePixels& pixels, const LaneWeights& weights,
                         const float (&p)[2][4]) {
  const unsigned ones[4] = {kOnes, kOnes, kOnes, kOnes};
  unsigned values[4], packed[2][2];
  float sums[2][4];
  pixels.values(values, weights);
  pack_weights(packed, p);
  mix(y, values, packed);
  mix(sums, ones, packed);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float inverse[2] = {reciprocal_approx(sums[half][0]), reciprocal_approx(sums[half][1])};
#pragma unroll
    for (int i = 0; i < 4; i++) y[half][i] *= inverse[i % 2];
  }
}

// Extremes are compared as integers that are in the order of the floats, with 15 - position in place of the last four
// bits: what is lost is far below the precision of 16-bit storage. The largest stand for NaN.
struct Extreme {
  static constexpr int kLowest = -0x7fffffff - 1, kNan = 0x7ffffff0;
  int key = kLowest;

  SASA_DEVICE static float marked(float z, int position) {
    return __builtin_bit_cast(float, (__builtin_bit_cast(int, z) & ~15) | (15 - position));
  }
  SASA_DEVICE static int ordered(int bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

  SASA_DEVICE void take_marked(float z) { keep(ordered(__builtin_bit_cast(int, z))); }
  SASA_DEVICE void take(float z, int position) {
    if (z != z) {
      keep(kNan | position);  // the last one wins, as in max pooling
    } else {
      keep((ordered(__builtin_bit_cast(int, z)) & ~15) | (15 - position));
    }
  }
  SASA_DEVICE void keep(int other) { key = other > key ? other : key; }
  SASA_DEVICE void share_in_quad() {
    keep(shuffle_xor(key, 1));
    keep(shuffle_xor(key, 2));
  }
  SASA_DEVICE bool is_nan() const { return key >= kNan; }
  SASA_DEVICE int bits() const { return key < 0 ? ordered(key) : key; }
  SASA_DEVICE float value() const { return is_nan() ? quiet_nan() : __builtin_bit_cast(float, bits() & ~15); }
  SASA_DEVICE int position() const { return is_nan() ? key & 15 : 15 - (bits() & 15); }
};

// Channels g and g + 8 of a head, over the blocks of a thread block. The outputs come with the sign of their channel,
// so that every extreme is a maximum.
struct LanePooling {
  const BlockForward& call;
  int n, g, t;
  float sign[2];
  double sums[2] = {}, squares[2] = {};
  float sum[2] = {}, square[2] = {};  // of a strip
  void* results = nullptr;
  int64_t step = 0;

  SASA_DEVICE LanePooling(const BlockForward& given, int head, int row, int column)
      : call(given), n(head), g(row), t(column) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const auto* signs = static_cast<const float*>(call.sign);
      sign[j] = signs != nullptr && load_global(signs + channel(j)) < 0 ? -1.0f : 1.0f;
    }
  }
  SASA_DEVICE int channel(int j) const { return n * E + g + 8 * j; }

  template <bool WHOLE>
  SASA_DEVICE void take(const float (&y)[2][4], const Strip& strip, int block) {
    Extreme extremes[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      float total = 0, best = -infinity();
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 2 * j; i < 2 * j + 2; i++) {
          const int p = query_of(t, half, i);
          if (!WHOLE && !strip.holds(block, p)) continue;
          total += y[half][i];
          square[j] = fmaf(y[half][i], y[half][i], square[j]);
          best = fmaxf(best, Extreme::marked(y[half][i], p));
        }
      }
      sum[j] += total;
      extremes[j].take_marked(best);
      if (!(fabsf(total) < infinity())) extremes[j] = exactly(y, strip, block, j);
      extremes[j].share_in_quad();
    }
    write(extremes, block);
  }

  // A mark would make NaN of infinity, and fmaxf passes NaN over.
  SASA_DEVICE Extreme exactly(const float (&y)[2][4], const Strip& strip, int block, int j) const {
    Extreme extreme;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int i = 2 * j; i < 2 * j + 2; i++) {
        const int p = query_of(t, half, i);
        if (strip.holds(block, p)) extreme.take(y[half][i], p);
      }
    }
    return extreme;
  }

  // Lanes 0 and 1 of a quad write the extremes of its two channels, 2 and 3 the positions.
  SASA_DEVICE void write(const Extreme (&extremes)[2], int block) const {
    const Extreme extreme = t % 2 == 0 ? extremes[0] : extremes[1];
    if (t < 2) {
      const float value = extreme.value() * (t == 0 ? sign[0] : sign[1]);
      store_global(static_cast<Element*>(results) + block * step, to_element(value));
    } else {
      store_global(static_cast<uint8_t*>(results) + block * step, static_cast<uint8_t>(extreme.position()));
    }
  }

  // Where this lane writes the results of a strip.
  SASA_DEVICE void begin_strip(const Strip& strip) {
    const Map& map = t < 2 ? call.extreme : call.position;
    const int to = channel(t % 2);
    results = t < 2 ? static_cast<void*>(const_cast<Element*>(at<Element>(map, strip.b, to, strip.row, strip.first)))
                    : static_cast<void*>(const_cast<uint8_t*>(at<uint8_t>(map, strip.b, to, strip.row, strip.first)));
    step = map.stride[3];
  }

  SASA_DEVICE void end_strip() {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      sums[j] += sum[j], squares[j] += square[j];
      sum[j] = square[j] = 0;
    }
  }

  SASA_DEVICE void write_sums(const BlockWorkspace& workspace) {
    const int64_t channels = call.shape.heads * E;
    double* part = static_cast<double*>(workspace.sums) + blockIdx.x * 2 * channels;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      for (int lane = 1; lane < 4; lane *= 2) {
        sums[j] += shuffle_xor(sums[j], lane);
        squares[j] += shuffle_xor(squares[j], lane);
      }
      if (t != 0) continue;
      store_global(part + channel(j), sums[j] * sign[j]);
      store_global(part + channels + channel(j), squares[j]);
    }
  }
};

template <bool WHOLE>
SASA_DEVICE void attend(LanePooling& pooling, const LaneWeights& weights, const Strip& strip, int block) {
  const LanePixels pixels(weights, block, pooling.g, pooling.t);
  float p[2][4], y[2][4];
  pixels.exponentials<WHOLE>(p, weights, strip, block, pooling.t);
  outputs(y, pixels, weights, p);
  pooling.take<WHOLE>(y, strip, block);
}

}  // namespace sasa

// Registers for sixteen warps on a multiprocessor.
#define SASA_BOUNDS 32 * SASA_HEADS, 16 / SASA_HEADS
SASA_KERNEL(SASA_BOUNDS)
void sasa_block_tensor_forward(SASA_ARGUMENT sasa::BlockForward call, SASA_ARGUMENT sasa::BlockWorkspace workspace) {
  using namespace sasa;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int given = blockIdx.y * kWarps + warp, n = given < call.shape.heads ? given : 0;  // without a head: head 0
  const Strips strips(call.shape);
  LanePooling pooling(call, n, g, t);
  const LaneWeights weights(call, workspace, n, g, t, pooling.sign);
#pragma unroll 1
  for (int i = blockIdx.x; i < strips.count; i += gridDim.x) {
    const Strip strip(call.shape, strips, i);
    __syncthreads();
    stage(call.image, strip);
    __syncthreads();
    pooling.begin_strip(strip);
#pragma unroll 1
    for (int block = 0; block < strip.blocks; block++) {
      if (strip.is_whole(block)) {
        attend<true>(pooling, weights, strip, block);
      } else {
        attend<false>(pooling, weights, strip, block);
      }
    }
    pooling.end_strip();
  }
  if (call.sums != nullptr) pooling.write_sums(workspace);
}
