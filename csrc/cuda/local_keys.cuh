// Local attention, backward: the keys' and values' gradients, on tensor cores: after local_queries.cuh.
//
// The same products with the roles exchanged: a warp has 16 keys, the queries whose windows hold them are the halo.
// dV = P^T . dY and dK = scale * dS^T . Q. Each query of the halo needs its position terms, log-sum-exp and delta: the
// block puts them into shared memory first, for one head after the other.
#pragma once
#include "local_position.cuh"

namespace sasa {

constexpr int kGrads = kPlanes * kHaloPlane, kKeys = 2 * kGrads, kValues = kKeys + kPlanes * kTilePlane;
constexpr int kTables = kValues + kPlanes * kTilePlane, kHaloPixels = kLayout.halo_pixels();
constexpr int kLse = kTables + kLayout.tables(), kDelta = kLse + kHaloPixels * 4, kBias = kDelta + kHaloPixels * 4;
constexpr int kWarps = kLayout.warps(), kSeenColumns = K + kTileW - 1;

// Floats of a halo pixel: row terms less the log-sum-exp from 0 on, column terms from kColumnTerms on. With tiles of two
// columns they lie one further in odd pixels, so that both keys' terms are one aligned load.
constexpr int kBiasStride = kLayout.bias_stride(), kColumnTerms = K <= 7 ? 8 : 12;
constexpr bool kShiftOdd = kTileW == 2;

// With 128 channels the fragments of keys and values do not fit in registers beside both gradients.
constexpr bool kKeepFragments = D < 128;

// Stands for the log-sum-exp where there is no query: weights of zero, and not infinite as a query's may be.
constexpr float kNoQuery = 3e38f;

// Log-sum-exp (times log2(e))  and delta of each pixel of the halo.
SASA_DEVICE void load_queries(const LocalBackward& call, const LocalWork& work, int64_t image, int head, int y0,
                              int x0) {
  const int height = call.shape.height, width = call.shape.width;
  const int64_t plane = (image * call.shape.heads + head) * height;
  const float* logsumexp = static_cast<const float*>(call.logsumexp);
#pragma unroll 1
  for (int pixel = threadIdx.x; pixel < kHaloPixels; pixel += kThreads) {
    const int y = y0 - R + pixel / kHaloW, x = x0 - R + pixel % kHaloW;
    const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(height) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(width);
    const int64_t at = (plane + y) * width + x;
    store_shared(kLse + pixel * 4, inside ? load_global(logsumexp + at) * kLog2E : kNoQuery);
    store_shared(kDelta + pixel * 4, inside ? load_global(work.delta + at) : 0.f);
  }
}

// Row g of the products is this of 8 pixels: even ones first, so that stores by lanes of half a warp do not conflict.
SASA_DEVICE int halo_order(int g) { return 2 * (g % 4) + g / 4; }

SASA_DEVICE void store_terms(const float (&rows)[4], const float (&columns)[4], int n, int first, const Lane& lane) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int pixel = first + 8 * h + halo_order(lane.g), offset = 8 * n + 2 * lane.t;
    if (pixel >= kHaloPixels || offset >= K) continue;
    const float lse = load_shared<float>(kLse + pixel * 4);
    const bool inside = lse != kNoQuery;
    const float row[2] = {inside ? rows[2 * h] - lse : -infinity(), inside ? rows[2 * h + 1] - lse : -infinity()};
    const float column[2] = {inside ? columns[2 * h] : 0.f, inside ? columns[2 * h + 1] : 0.f};
    const unsigned to = kBias + (pixel * kBiasStride + offset) * 4;
    store_shared(to, Vector<float, 2>{row[0], row[1]});  // entry K is not used
    if (kShiftOdd && lane.g >= 4) {
      store_shared(to + (kColumnTerms + 1) * 4, column[0]);
      store_shared(to + (kColumnTerms + 2) * 4, column[1]);
    } else {
      store_shared(to + kColumnTerms * 4, Vector<float, 2>{column[0], column[1]});
    }
  }
}

// The position terms of all queries of the halo.
SASA_DEVICE void fill_bias(unsigned queries, unsigned tables, float factor, int warp, const Lane& lane) {
  static_assert(kHaloW % 2 == 0, "even pixels are even columns");
#pragma unroll 1
  for (int first = warp * 16; first < kHaloPixels; first += kWarps * 16) {
    const int wanted = first + lane.id % 16 / 8 * 8 + halo_order(lane.row);
    const unsigned address = queries + (wanted < kHaloPixels ? wanted : kHaloPixels - 1) * kChunk;
    Fragments q;
    if constexpr (D == 8) {
      unsigned r[2];
      load_matrix(r, address);
      q.at[0][0] = r[0], q.at[0][1] = r[1], q.at[0][2] = q.at[0][3] = 0;
    } else {
#pragma unroll
      for (int s = 0; s < kSteps16; s++) load_matrix(q.at[s], address + (2 * s + lane.matrix / 2) * kHaloPlane);
    }
#pragma unroll
    for (int n = 0; n < kOffsetTiles; n++) {
      float rows[4] = {0, 0, 0, 0}, columns[4] = {0, 0, 0, 0};
      add_table_product(rows, q, tables + 8 * n * kChunk, 0, lane);
      add_table_product(columns, q, tables + kColTable + (kTablePad + 8 * n) * kChunk, 1, lane);
#pragma unroll
      for (int i = 0; i < 4; i++) rows[i] *= factor, columns[i] *= factor;
      store_terms(rows, columns, n, first, lane);
    }
  }
}

// Products of keys with queries and of values with gradients become P and dS, of the n-tile in seen row `row`.
SASA_DEVICE void weigh(float (&p)[4], float (&ds)[4], int origin, int row, int column_tile, bool seen, float factor,
                       const Lane& lane) {
  const int column = 8 * column_tile + 2 * lane.t, last = kSeenColumns - 2;
  const int pixel = origin + row * kHaloW + (column < last ? column : last);
  const auto delta = load_shared<Vector<float, 2>>(kDelta + pixel * 4);
  float bias[4];  // [2 * h + e]
  if constexpr (kPosition) {
    const int row_offset = seen ? lane.y + 2 * R - row : 0;
    const unsigned terms = kBias + pixel * kBiasStride * 4;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float row_term = load_shared<float>(terms + (e * kBiasStride + row_offset) * 4);
      if constexpr (kShiftOdd) {
        const auto pair =
            load_shared<Vector<float, 2>>(terms + (e * kBiasStride + kColumnTerms + 2 * R - 2 * lane.t) * 4);
        bias[e] = row_term + pair.at[0], bias[2 + e] = row_term + pair.at[1];
      } else {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int offset = lane.x(h) + 2 * R - column - e;
          const unsigned at = column_seen(column + e, lane.x(h)) ? kColumnTerms + offset : 0;
          bias[2 * h + e] = row_term + load_shared<float>(terms + (e * kBiasStride + at) * 4);
        }
      }
    }
  } else {
    const auto lse = load_shared<Vector<float, 2>>(kLse + pixel * 4);
#pragma unroll
    for (int i = 0; i < 4; i++) bias[i] = -lse.at[i % 2];
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float z = kContent ? fmaf(p[i], factor, bias[i]) : bias[i];
    p[i] = exp2_approx(column_seen(column + i % 2, lane.x(i / 2)) ? z : -infinity());
    ds[i] = p[i] * (ds[i] - delta.at[i % 2]);
  }
}

SASA_DEVICE void to_pairs(unsigned (&pairs)[2], const float (&x)[4]) {
  pairs[0] = pack<Element>(x[0], x[1]), pairs[1] = pack<Element>(x[2], x[3]);
}

// One step: A operands of P and dS.
SASA_DEVICE void weigh_step(unsigned (&pa)[4], unsigned (&da)[4], float (&p)[2][4], float (&ds)[2][4], int origin,
                            int step, float factor, const Lane& lane) {
  unsigned p_pairs[2][2], ds_pairs[2][2];
  if (kColumnTiles == 1 && step < kPaired) {  // of both rows one is seen
    const bool first = sees(seen_tile(step, 0), lane);
#pragma unroll
    for (int i = 0; i < 4; i++) p[0][i] = first ? p[0][i] : p[1][i], ds[0][i] = first ? ds[0][i] : ds[1][i];
    weigh(p[0], ds[0], origin, first ? step : step + K, 0, true, factor, lane);
    to_pairs(p_pairs[0], p[0]), to_pairs(ds_pairs[0], ds[0]);
    to_pairs(p_pairs[1], p[0]), to_pairs(ds_pairs[1], ds[0]);
  } else {
#pragma unroll
    for (int which = 0; which < 2; which++) {
      const SeenTile tile = seen_tile(step, which);
      weigh(p[which], ds[which], origin, tile.row, tile.column_tile, sees(tile, lane), factor, lane);
      to_pairs(p_pairs[which], p[which]), to_pairs(ds_pairs[which], ds[which]);
    }
  }
  seen_operand(pa, p_pairs, step, lane);
  seen_operand(da, ds_pairs, step, lane);
}

template <bool EXACT>
SASA_DEVICE void sum_unit(float (&dk)[kHeadPlanes][4], float (&dv)[kHeadPlanes][4], int unit, int h, float factor,
                          const Lane& lane) {
  const unsigned planes = h * kHeadPlanes * kHaloPlane + seen_origin(unit), slots = h * kHeadPlanes * kTilePlane;
  const int origin = seen_origin(unit) / kChunk;
  Fragments key, value;
  if constexpr (kKeepFragments) {
    if constexpr (kContent) load_fragments(key, kKeys + slots, unit, lane);
    load_fragments(value, kValues + slots, unit, lane);
  }
  clear(dk), clear(dv);
#pragma unroll(EXACT ? 1 : kSteps)
  for (int step = 0; step < kSteps; step++) {
    float p[2][4] = {}, ds[2][4];
    unsigned pa[4], da[4];
    if constexpr (kContent) {
      if constexpr (!kKeepFragments) load_fragments(key, kKeys + slots, unit, lane);
      score(p, key, planes, step, lane);
    }
    if constexpr (!kKeepFragments) load_fragments(value, kValues + slots, unit, lane);
    score(ds, value, kGrads + planes, step, lane);
    weigh_step(pa, da, p, ds, origin, step, factor, lane);
    add_weighted<EXACT>(dv, pa, kGrads + planes, step, lane);
    if constexpr (kContent) add_weighted<EXACT>(dk, da, planes, step, lane);
  }
}

// One head of a unit. The gradients go to the slots of the keys and values.
SASA_DEVICE void keys_unit(const LocalBackward& call, int unit, int h, const Lane& lane) {
  const float scale = static_cast<float>(call.shape.scale), factor = scale * kLog2E;
  const unsigned slots = h * kHeadPlanes * kTilePlane;
  float dk[kHeadPlanes][4], dv[kHeadPlanes][4];
  sum_unit<false>(dk, dv, unit, h, factor, lane);
  if (any_not_finite(dk) || any_not_finite(dv)) sum_unit<true>(dk, dv, unit, h, factor, lane);
  __syncwarp();  // all have loaded keys and values
  stage_result(kValues + slots, dv, unit, lane);
  if constexpr (kContent) {
#pragma unroll
    for (int n = 0; n < kHeadPlanes; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) dk[n][i] *= scale;
    }
    stage_result(kKeys + slots, dk, unit, lane);
  }
}

SASA_DEVICE void copy_keys(const LocalBackward& call, const BlockPlace& place, int y0, int x0) {
  const int height = call.shape.height, width = call.shape.width;
  copy_halo(0, call.query, place.image, place.head, y0, x0, height, width);
  copy_halo(kGrads, call.grad_output, place.image, place.head, y0, x0, height, width);
  if constexpr (kContent) copy_tile(kKeys, call.key, place.image, place.head, y0, x0, height, width);
  copy_tile(kValues, call.value, place.image, place.head, y0, x0, height, width);
  commit_copies();
}

SASA_KERNEL(kThreads)
void sasa_local_keys(SASA_ARGUMENT LocalBackward call, SASA_ARGUMENT LocalTiling tiling, SASA_ARGUMENT LocalWork work) {
  const BlockPlace place = block_place(tiling);
  const Lane lane;
  const int warp = threadIdx.x / 32, height = call.shape.height, width = call.shape.width;
  const float factor = static_cast<float>(call.shape.scale) * kLog2E;
  int y0 = place.tile / tiling.tiles_x * kBlockH, x0 = place.tile % tiling.tiles_x * kBlockW;
  if constexpr (kPosition) load_tables(kTables, call.rel_row, call.rel_col, place.head);
#pragma unroll 1
  for (int tile = place.tile; tile < place.last_tile; tile++) {
    copy_keys(call, place, y0, x0);
#pragma unroll 1
    for (int h = 0; h < kHeads; h++) {
      load_queries(call, work, place.image, place.head + h, y0, x0);
      wait_copies<0>();
      __syncthreads();
      if constexpr (kPosition) {
        fill_bias(h * kHeadPlanes * kHaloPlane, kTables + h * kHeadTables, factor, warp, lane);
        __syncthreads();
      }
#pragma unroll 1
      for (int unit = warp; unit < kUnits; unit += kWarps) {
        const Pixel first = pixel_of_slot(unit * 16, y0, x0);
        if (first.y < height && first.x < width) keys_unit(call, unit, h, lane);
      }
      __syncthreads();
    }
#pragma unroll 1
    for (int unit = warp; unit < kUnits; unit += kWarps) {
      if constexpr (kContent) {
        write_unit(call.grad_key, kKeys, place.image, place.head, unit, y0, x0, height, width, lane);
      }
      write_unit(call.grad_value, kValues, place.image, place.head, unit, y0, x0, height, width, lane);
    }
    __syncthreads();
    x0 += kBlockW;
    if (x0 >= width) x0 = 0, y0 += kBlockH;
  }
}

}  // namespace sasa
