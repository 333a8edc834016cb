// Position terms of local attention: q . r for a row offset and a column offset, from tables in shared memory.
#pragma once
#include "local_tile.cuh"

namespace sasa {

constexpr int kRowTablePlane = kLayout.row_table_plane(), kColTablePlane = kLayout.col_table_plane();
constexpr int kTablePlanes = kLayout.table_planes(), kHeadTables = kLayout.head_tables(), kTablePad = kTileW - 1;
constexpr int kColTable = 2 * kTablePlanes * kRowTablePlane;  // where a head's column table starts
constexpr int kTermsStride = kLayout.terms_stride();

// The tables of the block's heads, rounded to 16 bits, as planes: see LocalLayout. For a launch of kThreads.
SASA_DEVICE void load_tables(unsigned to, const void* rel_row, const void* rel_col, int head) {
  for (int i = threadIdx.x; i < kLayout.tables() / kChunk; i += kThreads) store_shared(to + i * kChunk, Chunk{});
  __syncthreads();
  constexpr int kHalf = D / 2, kEntries = K * kHalf;
  const float* tables[2] = {static_cast<const float*>(rel_row), static_cast<const float*>(rel_col)};
#pragma unroll
  for (int which = 0; which < 2; which++) {
    for (int i = threadIdx.x; i < kHeads * kEntries; i += kThreads) {
      const int h = i / kEntries, offset = i % kEntries / kHalf, channel = i % kHalf;
      const float exact = load_global(tables[which] + head * kEntries + i);
      const Element value = from_float<Element>(exact),
                    rest = from_float<Element>(fabsf(exact) < infinity() ? exact - to_float(value) : 0.f);
      const int column = D == 8 ? which * 4 + channel : channel, plane = which == 0 ? kRowTablePlane : kColTablePlane;
      const unsigned at = to + h * kHeadTables + which * (kColTable + kTablePad * kChunk) + column / 8 * plane +
                          offset * kChunk + column % 8 * 2;
      store_shared(at, value);
      store_shared(at + kTablePlanes * plane, rest);
    }
  }
}

// c += q . (8 rows of a table from `table` on)^T; which: 0 row table, 1 column table.
SASA_DEVICE void add_table_product(float (&c)[4], const Fragments& q, unsigned table, int which, const Lane& lane) {
  const int plane = which == 0 ? kRowTablePlane : kColTablePlane;
  if constexpr (D <= 16) {  // the rounded numbers and the rest in one step
    const int half = D == 16 ? 2 * which : 0;
    const unsigned twice[4] = {q.at[0][half], q.at[0][half + 1], q.at[0][half], q.at[0][half + 1]};
    unsigned r[2];
    load_matrix(r, table + (lane.matrix & 1) * plane + lane.row * kChunk);
    multiply<Element>(c, twice, r[0], r[1]);
  } else {
    constexpr int kTableSteps = kSteps16 / 2;  // of 16 channels
#pragma unroll
    for (int s = 0; s < 2 * kTableSteps; s += 2) {
      unsigned r[4];
      load_matrix(r, table + (2 * s + lane.matrix) * plane + lane.row * kChunk);
      multiply<Element>(c, q.at[which * kTableSteps + s % kTableSteps], r[0], r[1]);
      multiply<Element>(c, q.at[which * kTableSteps + (s + 1) % kTableSteps], r[2], r[3]);
    }
  }
}

// What is added to the products of a unit: rows[h][place], columns[n-tile][2 * h + e], both times `factor`; -inf where
// no window of the lane's pixels holds the column, or where padding="mask" hides the row or column.
struct Bias {
  float rows[2][K], columns[kColumnTiles][4];
};

// Where these are: a bit for each place, and one for each column [4 * n-tile + 2 * h + e].
struct Hidden {
  unsigned rows = 0, columns = 0;
  SASA_DEVICE bool at(int place, int column_tile, int i) const {
    return ((rows >> place | columns >> (4 * column_tile + i)) & 1) != 0;
  }
};
// y0, x0: the first pixel of the unit.
SASA_DEVICE Hidden hidden_from(int y0, int x0, int height, int width, const Lane& lane) {
  Hidden hidden;
#pragma unroll
  for (int i = 0; i < 4 * kColumnTiles; i++) {
    const int column = 8 * (i / 4) + 2 * lane.t + i % 2;
    bool seen = column_seen(column, lane.x(i / 2 % 2));
    if (kMask) seen = seen && static_cast<unsigned>(x0 - R + column) < static_cast<unsigned>(width);
    hidden.columns |= seen ? 0u : 1u << i;
  }
  if (kMask) {
#pragma unroll
    for (int r = 0; r < K; r++) {
      const int row = lane.y <= r ? r : r + K;
      const bool seen = static_cast<unsigned>(y0 - R + row) < static_cast<unsigned>(height);
      hidden.rows |= seen ? 0u : 1u << r;
    }
  }
  return hidden;
}

// Each lane stores two row terms a pixel. Rows of 8 floats put two terms into each bank, which must not be stored at
// once: a bit for each lane that stores its second term first. Following lane and bank in turn gives them all.
constexpr unsigned lanes_that_swap() {
  unsigned known = 0, swaps = 0;
  for (int start = 0; start < 32; start++) {
    if ((known >> start & 1) == 0) known |= 1u << start;
    for (int round = 0; round < 32; round++) {
      for (int lane = 0; lane < 32; lane++) {
        if ((known >> lane & 1) == 0) continue;
        for (int e = 0; e < 2; e++) {
          const int g = lane / 4, offset = 2 * (lane % 4) + e, other = g ^ 4;
          if (offset >= K) continue;
          const int place = (offset + g % kTileH) % K, partner_offset = (place - other % kTileH + K) % K;
          const int partner = 4 * other + partner_offset / 2;
          if ((known >> partner & 1) != 0) continue;
          known |= 1u << partner;
          swaps |= ((swaps >> lane ^ e ^ partner_offset ^ 1) & 1) << partner;
        }
      }
    }
  }
  return swaps;
}

// Row terms, from fragments by offset to rows by place: place (offset + y) % K, through the warp's own memory.
SASA_DEVICE void turn_rows(Bias& bias, const float (&c)[kOffsetTiles][4], unsigned terms, float factor,
                           const Lane& lane) {
  constexpr unsigned kSwaps = K <= 7 ? lanes_that_swap() : 0;
  const int swap = kSwaps >> lane.id & 1;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kOffsetTiles; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int h = i / 2, e = (i ^ swap) & 1, offset = 8 * n + 2 * lane.t + e;
      const float term = e == 0 ? c[n][2 * h] : c[n][2 * h + 1];
      if (offset < K) {
        store_shared(terms + ((lane.g + 8 * h) * kTermsStride + (offset + lane.y) % K) * 4, term * factor);
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int h = 0; h < 2; h++) {
#pragma unroll
    for (int q = 0; q < (K + 3) / 4; q++) {
      const auto four = load_shared<Vector<float, 4>>(terms + ((lane.g + 8 * h) * kTermsStride + 4 * q) * 4);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (4 * q + i < K) bias.rows[h][4 * q + i] = four.at[i];
      }
    }
  }
}

SASA_DEVICE void position_bias(Bias& bias, const Fragments& q, unsigned tables, unsigned terms, float factor,
                               const Hidden& hidden, const Lane& lane) {
#pragma unroll
  for (int ct = 0; ct < kColumnTiles; ct++)
#pragma unroll
    for (int e = 0; e < 4; e++) bias.columns[ct][e] = 0;
#pragma unroll
  for (int r = 0; r < K; r++) bias.rows[0][r] = bias.rows[1][r] = 0;
  if constexpr (kPosition) {
    float c[kOffsetTiles][4];
    clear(c);
#pragma unroll
    for (int n = 0; n < kOffsetTiles; n++) add_table_product(c[n], q, tables + 8 * n * kChunk, 0, lane);
    turn_rows(bias, c, terms, factor, lane);
    const unsigned columns = tables + kColTable + kTablePad * kChunk;
#pragma unroll
    for (int ct = 0; ct < kColumnTiles; ct++) {
#pragma unroll
      for (int x = 0; x < kTileW; x++) {  // for pixels in column x the table is shifted by x
        float shifted[4] = {0, 0, 0, 0};
        add_table_product(shifted, q, columns + (8 * ct - x) * kChunk, 1, lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (x / (kTileW / 2) == i / 2 && lane.x(i / 2) == x) bias.columns[ct][i] = shifted[i] * factor;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4 * kColumnTiles; i++) {
    if (hidden.columns >> i & 1) bias.columns[i / 4][i % 4] = -infinity();
  }
  if (kMask) {
#pragma unroll
    for (int r = 0; r < K; r++) {
      if (hidden.rows >> r & 1) bias.rows[0][r] = bias.rows[1][r] = -infinity();
    }
  }
}

// A head of a unit: offsets in shared memory of its first key, of the warp's row terms, of the head's tables and of its
// planes of queries; what its windows do not hold; scale * log2(e).
struct UnitPlace {
  unsigned keys, terms, tables, queries;
  int unit;
  Hidden hidden;
  float factor;
};

// Logits of a unit's 16 queries times log2(e): scale and log2(e) are in `factor`.
SASA_DEVICE void logits(float (&s)[K][kColumnTiles][4], const Fragments& q, unsigned keys, const Bias& bias,
                        float factor, const Lane& lane) {
  if constexpr (kContent) scores(s, q, keys, lane);
#pragma unroll
  for (int r = 0; r < K; r++) {
#pragma unroll
    for (int ct = 0; ct < kColumnTiles; ct++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float term = bias.rows[i / 2][r] + bias.columns[ct][i];
        s[r][ct][i] = kContent ? fmaf(s[r][ct][i], factor, term) : term;
      }
    }
  }
}

// The same of one step, for what is computed exactly, in loops that are not unrolled: -inf where nothing is seen, even if
// the key there is NaN. Row terms are read from where turn_rows has left them.
SASA_DEVICE void step_logits(float (&s)[2][4], bool (&seen)[2][4], const Fragments& q, unsigned keys, const Bias& bias,
                             unsigned terms, const Hidden& hidden, float factor, int step, const Lane& lane) {
  float c[2][4] = {};
  if constexpr (kContent) score(c, q, keys, step, lane);
#pragma unroll
  for (int which = 0; which < 2; which++) {
    const SeenTile tile = seen_tile(step, which);
    const int ct = kColumnTiles == 2 ? which : 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      seen[which][i] = sees(tile, lane) && !hidden.at(tile.place(), ct, i);
      float term = bias.columns[ct][i];
      if (kPosition) term += load_shared<float>(terms + ((lane.g + i / 2 * 8) * kTermsStride + tile.place()) * 4);
      s[which][i] = seen[which][i] ? fmaf(c[which][i], factor, term) : -infinity();
    }
  }
}

}  // namespace sasa
