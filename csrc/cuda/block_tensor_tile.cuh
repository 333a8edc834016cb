// Attention inside blocks on tensor cores, for the stem of a ResNet: blocks of 4 x 4 pixels, heads of 16 value
// channels, an image of up to 4 channels, 16-bit storage, and only what pooling leaves of the result. What both
// directions share.
//
// A warp takes one head of one block at a time, 16 queries p and 16 keys s. With g = lane / 4 and t = lane % 4 a lane
// holds the logits of queries g and g + 8 with keys 2 t, 2 t + 1, 2 t + 8 and 2 t + 9: the place of an accumulator, and
// of the operand of the next product. Products with the image's few channels are done in float, with the head's
// matrices in registers for the whole launch; those of 16 x 16 x 16 on tensor cores. Outputs come transposed, channels
// e = g and g + 8 of queries 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, so that pooling needs few shuffles.
//
// A thread block goes through strips of SASA_COLUMNS blocks side by side, a warp for each of SASA_HEADS heads. Strips
// lie in shared memory as 4 rows of pixels, 16 bytes each; rows are 4 pixels longer than a multiple of 8, so that the
// four keys that a quarter of a warp reads lie in different banks.
//
// The build gives SASA_STORAGE, SASA_C, SASA_COLUMNS, SASA_HEADS and SASA_CONTENT, whether there is q.k.
#pragma once
#include "block_layout.h"
#include "elements.cuh"
#include "workspaces.h"

namespace sasa {

constexpr int C = SASA_C, S = 4, P = 16, E = 16, O = 2 * S - 1;
constexpr int kWarps = SASA_HEADS, kThreads = 32 * kWarps, kColumns = SASA_COLUMNS;
constexpr int kRowPixels = tensor_row_pixels(kColumns);
constexpr unsigned kStripBytes = tensor_strip_bytes(kColumns, kWarps), kWeightBytes = tensor_weight_bytes(C);
constexpr unsigned kOnes = SASA_STORAGE == 2 ? 0x3F803F80u : 0x3C003C00u;  // 1, in both 16 bits
using Colour = Vector<float, 4>;                                           // of a pixel, zeros beyond C

// The keys of lane t, and in the transposed outputs its queries.
SASA_DEVICE int key_of(int t, int k) { return 2 * t + k % 2 + k / 2 * 8; }

// From a query's row to a key's, where i = (pair of keys) - (half of the queries) + 1; and from a query's column to
// that of keys k with k % 2 = i.
SASA_DEVICE int row_offset(int g, int t, int i) { return t / 2 - g / 4 + 2 * (i - 1); }
SASA_DEVICE int column_offset(int g, int t, int i) { return 2 * t % 4 - g % 4 + i; }

struct Strips {  // the plan refuses 2^31 of them
  int down, across, of_row, count;
  SASA_DEVICE explicit Strips(const BlockShape& shape)
      : down(static_cast<int>((shape.height + S - 1) / S)), across(static_cast<int>((shape.width + S - 1) / S)) {
    of_row = (across + kColumns - 1) / kColumns;
    count = static_cast<int>(shape.batch) * down * of_row;
  }
};

struct Strip {
  int b, row, first;   // image, row of blocks, first block
  int blocks, height;  // in the strip; rows of pixels that are in the image, at most S
  int width;           // pixels from the strip's first on
  SASA_DEVICE Strip(const BlockShape& shape, const Strips& strips, int i) {
    b = i / strips.of_row / strips.down, row = i / strips.of_row % strips.down, first = i % strips.of_row * kColumns;
    blocks = strips.across - first < kColumns ? strips.across - first : kColumns;
    height = static_cast<int>(shape.height - row * S < S ? shape.height - row * S : S);
    width = static_cast<int>(shape.width) - first * S;
  }
  // Whether pixel p of a block is in the image, and whether all are.
  SASA_DEVICE bool holds(int block, int p) const { return p / S < height && block * S + p % S < width; }
  SASA_DEVICE bool is_whole(int block) const { return height == S && block * S + S <= width; }
};

SASA_DEVICE void stage(const Map& image, const Strip& strip) {
#pragma unroll 2
  for (int i = threadIdx.x; i < S * kColumns * S; i += kThreads) {
    const int y = i / (kColumns * S), x = i % (kColumns * S);
    const bool inside = y < strip.height && x < strip.width;
    Colour colour = {};
    if (inside) {
      const Element* from = at<Element>(image, strip.b, 0, strip.row * S + y, strip.first * S + x);
#pragma unroll
      for (int c = 0; c < C; c++) colour.at[c] = to_float(load_global(from + c * image.stride[1]));
    }
    store_shared(static_cast<unsigned>((y * kRowPixels + x) * 16), colour);
  }
}

SASA_DEVICE void load_pixel(float (&to)[C], unsigned place) {
  const auto colour = load_shared<Colour>(place);
#pragma unroll
  for (int c = 0; c < C; c++) to[c] = colour.at[c];
}

SASA_DEVICE float dot_colours(const float (&a)[C], const float (&b)[C], float start) {
#pragma unroll
  for (int c = 0; c < C; c++) start = fmaf(a[c], b[c], start);
  return start;
}

// What a lane needs of its head. Embeddings are in registers; M and the values' matrices, which are used once for each
// block, lie in shared memory behind the strip, so that more warps fit on a multiprocessor.
struct LaneWeights {
  // A, by offset: the lane's queries and keys lie in rows g / 4 + {0, 2} and t / 2 + {0, 2} of the block, which makes
  // three offsets, and in columns g % 4 and 2 t % 4 + {0, 1}, which makes two.
  float rows[3][C], columns[2][C];
  unsigned content, values;  // shared: rows of M; the lane's vectors of value weights

  // `sign` of channels g and g + 8 goes into their values.
  template <class Call>
  SASA_DEVICE LaneWeights(const Call& call, const BlockWorkspace& workspace, int n, int g, int t,
                          const float (&sign)[2]) {
    const float* head = static_cast<const float*>(workspace.folded) + n * folded_elements(call.shape);
    const unsigned lane = 4 * g + t, first = kStripBytes + threadIdx.x / 32 * kWeightBytes;
    content = first, values = first + C * 16 + lane * 16;
    if (lane < C) {
      Colour row = {};
      for (int c = 0; c < C; c++) row.at[c] = load_global(head + lane * C + c);
      store_shared(content + lane * 16, row);
    }
#pragma unroll
    for (int i = 0; i < 8 * C; i += 4) {
      Colour some;
#pragma unroll
      for (int j = i; j < i + 4; j++) {
        const int half = j / (4 * C), s = key_of(t, j / C % 4);
        const float* matrices = static_cast<const float*>(call.w_value);
        some.at[j - i] =
            load_global(matrices + ((s * call.shape.heads + n) * E + g + 8 * half) * C + j % C) * sign[half];
      }
      store_shared(values + i * 128, some);
    }
    const float *of_rows = head + C * C, *of_columns = of_rows + O * C;
#pragma unroll
    for (int i = 0; i < 3 * C; i++) {
      rows[i / C][i % C] = load_global(of_rows + (row_offset(g, t, i / C) + S - 1) * C + i % C);
    }
#pragma unroll
    for (int i = 0; i < 2 * C; i++) {
      columns[i / C][i % C] = load_global(of_columns + (column_offset(g, t, i / C) + S - 1) * C + i % C);
    }
    __syncwarp();
  }

  // 16 bytes of the lane, behind all of these.
  SASA_DEVICE unsigned behind() const { return values + 8 * C * 128; }
  SASA_DEVICE Colour content_row(int c) const { return load_shared<Colour>(content + c * 16); }
  // value weights[half][k][c] of channel g or g + 8 and key k
  SASA_DEVICE void load_values(float (&weights)[2][4][C]) const {
#pragma unroll
    for (int i = 0; i < 8 * C; i += 4) {
      const auto some = load_shared<Colour>(values + i * 128);
#pragma unroll
      for (int j = i; j < i + 4; j++) weights[j / (4 * C)][j / C % 4][j % C] = some.at[j - i];
    }
  }
};

// One head of one block, as a lane sees it.
struct LanePixels {
  float query[2][C], key[4][C], asked[2][C];  // x of p = g, g + 8; x of the keys; M^T x of the queries

  SASA_DEVICE LanePixels(const LaneWeights& weights, int block, int g, int t) {
    constexpr unsigned row = kRowPixels * 16;
    const unsigned first = static_cast<unsigned>(block * S * 16);
    const unsigned of_query = first + g / 4 * row + g % 4 * 16, of_key = first + t / 2 * row + t % 2 * 32;
#pragma unroll
    for (int half = 0; half < 2; half++) load_pixel(query[half], of_query + 2 * half * row);
#pragma unroll
    for (int k = 0; k < 4; k++) load_pixel(key[k], of_key + k / 2 * 2 * row + k % 2 * 16);
#pragma unroll
    for (int i = 0; i < C; i++) asked[0][i] = asked[1][i] = 0;
#pragma unroll
    for (int c = 0; SASA_CONTENT && c < C; c++) {
      const Colour row = weights.content_row(c);
#pragma unroll
      for (int i = 0; i < 2 * C; i++) asked[i / C][i % C] = fmaf(query[i / C][c], row.at[i % C], asked[i / C][i % C]);
    }
  }

  // exp(logit - maximum) of the lane's queries and keys; 0 for keys beyond the image. WHOLE: there are none.
  template <bool WHOLE>
  SASA_DEVICE void exponentials(float (&p)[2][4], const LaneWeights& weights, const Strip& strip, int block,
                                int t) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float of_rows[2], of_columns[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        of_rows[i] = dot_colours(query[half], weights.rows[i - half + 1], 0.0f);
        of_columns[i] = dot_colours(query[half], weights.columns[i], 0.0f);
      }
#pragma unroll
      for (int k = 0; k < 4; k++) {
        p[half][k] = of_rows[k / 2] + of_columns[k % 2];
        if (SASA_CONTENT) p[half][k] = dot_colours(asked[half], key[k], p[half][k]);
        if (!WHOLE && !strip.holds(block, key_of(t, k))) p[half][k] = -infinity();
      }
      float maximum = fmaxf(fmaxf(p[half][0], p[half][1]), fmaxf(p[half][2], p[half][3]));
      maximum = fmaxf(maximum, shuffle_xor(maximum, 1));
      maximum = fmaxf(maximum, shuffle_xor(maximum, 2));
#pragma unroll
      for (int k = 0; k < 4; k++) p[half][k] = exp2_approx(p[half][k] - maximum);
    }
  }

  // The values, channels (g, g + 8) by keys: the first operand of values^T . p^T.
  SASA_DEVICE void values(unsigned (&a)[4], const LaneWeights& weights) const {
    float v[2][4], matrices[2][4][C];
    weights.load_values(matrices);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i / 4][i % 4] = dot_colours(matrices[i / 4][i % 4], key[i % 4], 0.0f);
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = pack<Element>(v[i % 2][i / 2 * 2], v[i % 2][i / 2 * 2 + 1]);
  }
};

// A 16 x 16 matrix of queries by keys, in 16 bits: [half][pair of keys].
SASA_DEVICE void pack_weights(unsigned (&packed)[2][2], const float (&p)[2][4]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int i = 0; i < 2; i++) packed[half][i] = pack<Element>(p[half][2 * i], p[half][2 * i + 1]);
  }
}

// y^T = values^T . p^T: y[half of the queries], channels (g, g + 8) by queries.
SASA_DEVICE void mix(float (&y)[2][4], const unsigned (&values)[4], const unsigned (&p)[2][2]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int i = 0; i < 4; i++) y[half][i] = 0;
    multiply<Element>(y[half], values, p[half][0], p[half][1]);
  }
}
// Of y[half][i]: the channel is g + 8 * (i / 2), the query this one.
SASA_DEVICE int query_of(int t, int half, int i) { return key_of(t, 2 * half + i % 2); }

}  // namespace sasa
