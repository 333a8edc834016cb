// Local attention, backward: the queries' gradient, each query's delta and the tables' gradients, on tensor cores.
//
// With dP = dY . V^T, delta = sum of P * dP and dS = P * (dP - delta): dQ = dS . K + G . r and dr = G^T . q, where G holds
// the sums of dS over the rows and over the columns of the window, (16 queries, 8 or 16 row offsets and as many column
// offsets), all times scale. A warp keeps one head for the whole launch, and its dr in registers.
#pragma once
#include "local_position.cuh"

namespace sasa {

constexpr int kValues = (kContent ? kPlanes : 0) * kHaloPlane, kQueries = kValues + kPlanes * kHaloPlane;
constexpr int kGrads = kQueries + kPlanes * kTilePlane, kLse = kLayout.queries_maps();
constexpr int kDelta = kLse + kLayout.tile_floats(), kTables = kDelta + kLayout.tile_floats();
constexpr int kWarps = kLayout.warps(), kScratch = kTables + kLayout.tables();
constexpr int kSumsStride = kLayout.sums_stride(), kColumnSums = 16 * kOffsetTiles;  // bytes in a row of G
static_assert(kWarps % kHeads == 0, "a warp keeps its head");

// With windows above 7 the products dP do not fit in registers beside P: they are computed twice.
constexpr bool kKeepProducts = K <= 7;

// Accumulators of dr: with 8 row offsets, row and column table share one (rows 0-7 and 8-15); else each has its own.
constexpr int kTableSums = D == 8 ? kOffsetTiles : kOffsetTiles * (D / 16);

// dS by place of a step's n-tiles to the A operand.
using Kept = float[K][kColumnTiles][4];

SASA_DEVICE void operand_of(unsigned (&a)[4], const Kept& kept, int step, const Lane& lane) {
  unsigned pairs[2][2];
#pragma unroll
  for (int which = 0; which < 2; which++) {
    const SeenTile tile = seen_tile(step, which);
    const auto& x = kept[tile.place()][tile.column_tile];
    pairs[which][0] = pack<Element>(x[0], x[1]), pairs[which][1] = pack<Element>(x[2], x[3]);
  }
  seen_operand(a, pairs, step, lane);
}

// What a unit adds up: dQ, and G as fragments, rows by place.
struct Sums {
  float dq[kHeadPlanes][4], rows[kOffsetTiles][4], columns[kColumnTiles][4];
};

// dQ += dS . K and the row sums of dS, for a step.
SASA_DEVICE void add_step(Sums& sums, const unsigned (&a)[4], unsigned keys, int step, const Lane& lane) {
  if constexpr (kContent) add_weighted<false>(sums.dq, a, keys, step, lane);
  if constexpr (kPosition) {
    const int first = seen_tile(step, 0).place(), second = seen_tile(step, 1).place();
    multiply<Element>(sums.rows[first / 8], a, lane.g == first % 8 ? ones<Element>() : 0u,
                      lane.g == second % 8 ? ones<Element>() : 0u);
  }
}

// p becomes dS, with the products dP kept.
SASA_DEVICE void gradient_kept(Sums& sums, float (&delta)[2], Kept& p, const Fragments& grad, unsigned keys,
                               unsigned values, const Lane& lane) {
  Kept dp;
  scores(dp, grad, values, lane);
#pragma unroll
  for (int r = 0; r < K; r++)
#pragma unroll
    for (int ct = 0; ct < kColumnTiles; ct++)
#pragma unroll
      for (int i = 0; i < 4; i++) delta[i / 2] = fmaf(p[r][ct][i], dp[r][ct][i], delta[i / 2]);
  delta[0] = quad_sum(delta[0]), delta[1] = quad_sum(delta[1]);
#pragma unroll
  for (int r = 0; r < K; r++) {
#pragma unroll
    for (int ct = 0; ct < kColumnTiles; ct++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        p[r][ct][i] *= dp[r][ct][i] - delta[i / 2];
        sums.columns[ct][i] += p[r][ct][i];
      }
    }
  }
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    unsigned a[4];
    operand_of(a, p, step, lane);
    add_step(sums, a, keys, step, lane);
  }
}

// The same with the products computed twice: for delta, then for dS.
SASA_DEVICE void gradient_twice(Sums& sums, float (&delta)[2], const Kept& p, const Fragments& grad, unsigned keys,
                                unsigned values, const Lane& lane) {
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    float dp[2][4];
    score(dp, grad, values, step, lane);
#pragma unroll
    for (int which = 0; which < 2; which++) {
      const SeenTile tile = seen_tile(step, which);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const bool seen = sees(tile, lane);
        const float more = fmaf(p[tile.place()][tile.column_tile][i], dp[which][i], delta[i / 2]);
        delta[i / 2] = seen ? more : delta[i / 2];
      }
    }
  }
  delta[0] = quad_sum(delta[0]), delta[1] = quad_sum(delta[1]);
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    float dp[2][4];
    unsigned pairs[2][2], a[4];
    score(dp, grad, values, step, lane);
#pragma unroll
    for (int which = 0; which < 2; which++) {
      const SeenTile tile = seen_tile(step, which);
      const bool seen = sees(tile, lane);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        dp[which][i] = p[tile.place()][tile.column_tile][i] * (dp[which][i] - delta[i / 2]);
        sums.columns[tile.column_tile][i] += seen ? dp[which][i] : 0.f;
      }
      pairs[which][0] = pack<Element>(dp[which][0], dp[which][1]);
      pairs[which][1] = pack<Element>(dp[which][2], dp[which][3]);
    }
    seen_operand(a, pairs, step, lane);
    add_step(sums, a, keys, step, lane);
  }
}

// Writes G of a unit to the warp's memory: row m holds the row offsets' sums, then the column offsets'. Places that no
// offset has stay zero.
SASA_DEVICE void write_sums(unsigned to, const Sums& sums, const Lane& lane) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const unsigned row = to + (lane.g + 8 * (i / 2)) * kSumsStride;
#pragma unroll
    for (int n = 0; n < kOffsetTiles; n++) {
      const int place = 8 * n + 2 * lane.t + i % 2;
      const int offset = place >= lane.y ? place - lane.y : place - lane.y + K;
      if (place < K) store_shared(row + 2 * offset, from_float<Element>(sums.rows[n][i]));
    }
#pragma unroll
    for (int ct = 0; ct < kColumnTiles; ct++) {
      const int column = 8 * ct + 2 * lane.t + i % 2, x = lane.x(i / 2);
      if (column_seen(column, x)) {
        store_shared(row + kColumnSums + 2 * (column - x), from_float<Element>(sums.columns[ct][i]));
      }
    }
  }
}

// dq += G . r
SASA_DEVICE void add_position_gradient(float (&dq)[kHeadPlanes][4], unsigned sums, unsigned tables, const Lane& lane) {
  const unsigned rows = tables + lane.id % 16 * kChunk;
  const unsigned columns = tables + kColTable + (kTablePad + lane.id % 16) * kChunk;
  const unsigned address = sums + lane.id % 16 * kSumsStride + lane.matrix / 2 * 16;
  unsigned a[kOffsetTiles][4];
#pragma unroll
  for (int n = 0; n < kOffsetTiles; n++) load_matrix(a[n], address + 32 * n);
  if constexpr (D == 8 && kOffsetTiles == 1) {
    unsigned r[1], c[1];
    load_matrix_transposed(r, rows), load_matrix_transposed(c, columns);
    multiply<Element>(dq[0], a[0], r[0], c[0]);
  } else if constexpr (D == 8) {
    unsigned r[2], c[2];
    load_matrix_transposed(r, rows), load_matrix_transposed(c, columns);
    multiply<Element>(dq[0], a[0], r[0], r[1]);
    multiply<Element>(dq[0], a[1], c[0], c[1]);
  } else {
#pragma unroll
    for (int n = 0; n < kHeadPlanes / 2; n++) {
      unsigned r[kOffsetTiles], c[kOffsetTiles];
      load_matrix_transposed(r, rows + n * kRowTablePlane);
      load_matrix_transposed(c, columns + n * kColTablePlane);
      if constexpr (kOffsetTiles == 1) {
        multiply<Element>(dq[n], a[0][0], a[0][1], r[0]);
        multiply<Element>(dq[n + kHeadPlanes / 2], a[0][2], a[0][3], c[0]);
      } else {
        multiply<Element>(dq[n], a[0], r[0], r[1]);
        multiply<Element>(dq[n + kHeadPlanes / 2], a[1], c[0], c[1]);
      }
    }
  }
}

// dr += G^T . q, with the unit's queries still in their slots.
SASA_DEVICE void add_table_gradient(float (&dr)[kTableSums][4], unsigned sums, unsigned queries, const Lane& lane) {
  const unsigned address = sums + (lane.row + lane.matrix / 2 * 8) * kSumsStride + lane.matrix % 2 * 16;
  const unsigned pixels = queries + lane.id % 16 * kChunk;
  unsigned a[kOffsetTiles][4];
#pragma unroll
  for (int n = 0; n < kOffsetTiles; n++) load_matrix_transposed(a[n], address + 32 * n);
  if constexpr (D == 8) {
    unsigned q[2];
    load_matrix_transposed(q, pixels);
#pragma unroll
    for (int n = 0; n < kOffsetTiles; n++) multiply<Element>(dr[n], a[n], q[0], q[1]);
  } else {
#pragma unroll
    for (int n = 0; n < kHeadPlanes / 2; n++) {
      unsigned low[2], high[2];
      load_matrix_transposed(low, pixels + n * kTilePlane);
      load_matrix_transposed(high, pixels + (n + kHeadPlanes / 2) * kTilePlane);
      if constexpr (kOffsetTiles == 1) {
        float row[4] = {dr[n][0], dr[n][1], 0, 0}, column[4] = {0, 0, dr[n][2], dr[n][3]};
        multiply<Element>(row, a[0], low[0], low[1]);
        multiply<Element>(column, a[0], high[0], high[1]);
        dr[n][0] = row[0], dr[n][1] = row[1], dr[n][2] = column[2], dr[n][3] = column[3];
      } else {
        multiply<Element>(dr[n], a[0], low[0], low[1]);
        multiply<Element>(dr[n + kHeadPlanes / 2], a[1], high[0], high[1]);
      }
    }
  }
}

// What P is made of: the log-sum-exp of the lane's pixels, times log2(e), and whether they are on the map.
struct Queries {
  float logsumexp[2];
  bool inside[2];
};

// The sums and deltas of a unit's head.
SASA_DEVICE void sum_unit(Sums& sums, float (&delta)[2], const UnitPlace& at, const Queries& queries, unsigned grads,
                          unsigned values, const Lane& lane) {
  Fragments fragments;
  Kept p;
  {
    Bias bias;
    load_fragments(fragments, at.queries, at.unit, lane);
    position_bias(bias, fragments, at.tables, at.terms, at.factor, at.hidden, lane);
    logits(p, fragments, at.keys, bias, at.factor, lane);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int r = 0; r < K; r++) {
#pragma unroll
      for (int ct = 0; ct < kColumnTiles; ct++) {
        p[r][ct][i] = queries.inside[i / 2] ? exp2_approx(p[r][ct][i] - queries.logsumexp[i / 2]) : 0.f;
      }
    }
  }
  load_fragments(fragments, grads, at.unit, lane);
  if constexpr (kKeepProducts) {
    gradient_kept(sums, delta, p, fragments, at.keys, values, lane);
  } else {
    gradient_twice(sums, delta, p, fragments, at.keys, values, lane);
  }
}

// The same where something is not finite: for delta, then for the sums. What is hidden takes no part, even where the
// log-sum-exp or dP is NaN, and a row's sum that is NaN is no other row's.
SASA_DEVICE void sum_unit_exactly(Sums& sums, float (&delta)[2], const UnitPlace& at, const Queries& queries,
                                  unsigned grads, unsigned values, const Lane& lane) {
  Fragments query, grad;
  Bias bias;
  load_fragments(query, at.queries, at.unit, lane);
  load_fragments(grad, grads, at.unit, lane);
  position_bias(bias, query, at.tables, at.terms, at.factor, at.hidden, lane);
#pragma unroll 1
  for (int pass = 0; pass < 2; pass++) {
#pragma unroll 1
    for (int step = 0; step < kSteps; step++) {
      float s[2][4], dp[2][4];
      bool seen[2][4];
      unsigned pairs[2][2], a[4];
      step_logits(s, seen, query, at.keys, bias, at.terms, at.hidden, at.factor, step, lane);
      score(dp, grad, values, step, lane);
#pragma unroll
      for (int which = 0; which < 2; which++) {
        const int ct = kColumnTiles == 2 ? which : 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int h = i / 2;
          const float p = exp2_approx(s[which][i] - queries.logsumexp[h]);
          const bool counts = seen[which][i] && queries.inside[h];
          if (pass == 0) delta[h] = counts ? fmaf(p, dp[which][i], delta[h]) : delta[h];
          dp[which][i] = counts ? p * (dp[which][i] - delta[h]) : 0.f;
          if (pass == 1) sums.columns[ct][i] += dp[which][i];
        }
        pairs[which][0] = pack<Element>(dp[which][0], dp[which][1]);
        pairs[which][1] = pack<Element>(dp[which][2], dp[which][3]);
      }
      if (pass == 0) continue;
      seen_operand(a, pairs, step, lane);
      if constexpr (kContent) add_weighted_exactly(sums.dq, a, at.keys, step, lane);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int place = i < 2 ? seen_tile(step, 0).place() : seen_tile(step, 1).place();
        const float sum = quad_sum(low<Element>(a[i]) + high<Element>(a[i]));
#pragma unroll
        for (int n = 0; n < 2 * kOffsetTiles; n++) {
          float& to = sums.rows[n / 2][i % 2 * 2 + n % 2];
          to += place == n / 2 * 8 + 2 * lane.t + n % 2 ? sum : 0.f;
        }
      }
    }
    if (pass == 0) delta[0] = quad_sum(delta[0]), delta[1] = quad_sum(delta[1]);
  }
}

SASA_DEVICE void clear(Sums& sums, float (&delta)[2]) {
  clear(sums.dq), clear(sums.rows), clear(sums.columns);
  delta[0] = delta[1] = 0;
}

// One head of a unit. dQ goes to the slots of the output's gradient, delta to its own.
SASA_DEVICE void queries_unit(float (&dr)[kTableSums][4], const LocalBackward& call, unsigned scratch, int unit, int h,
                              int y0, int x0, const Lane& lane) {
  const float scale = static_cast<float>(call.shape.scale);
  const unsigned slots = h * kHeadPlanes * kTilePlane, floats = (h * kUnits * 16 + unit * 16 + lane.g) * 4;
  const unsigned offset_sums = scratch + kLayout.terms();
  const int height = call.shape.height, width = call.shape.width;
  const Pixel first = pixel_of_slot(unit * 16, y0, x0);
  const unsigned planes = h * kHeadPlanes * kHaloPlane + seen_origin(unit);
  const UnitPlace at{planes,           scratch, kTables + h * kHeadTables,
                     kQueries + slots, unit,    hidden_from(first.y, first.x, height, width, lane),
                     scale * kLog2E};
  Queries queries;
#pragma unroll
  for (int hh = 0; hh < 2; hh++) {
    queries.logsumexp[hh] = load_shared<float>(kLse + floats + 32 * hh) * kLog2E;
    queries.inside[hh] = first.y + lane.y < height && first.x + lane.x(hh) < width;
  }
  Sums sums;
  float delta[2];
  clear(sums, delta);
  sum_unit(sums, delta, at, queries, kGrads + slots, kValues + planes, lane);
  if (any_not_finite(sums.dq) || any_not_finite(sums.columns)) {
    clear(sums, delta);
    sum_unit_exactly(sums, delta, at, queries, kGrads + slots, kValues + planes, lane);
  }
  if (lane.t == 0) store_shared(kDelta + floats, delta[0]), store_shared(kDelta + floats + 32, delta[1]);
  if constexpr (kPosition) {
    __syncwarp();
    write_sums(offset_sums, sums, lane);
    __syncwarp();
    add_position_gradient(sums.dq, offset_sums, kTables + h * kHeadTables, lane);
    add_table_gradient(dr, offset_sums, kQueries + slots + unit * 16 * kChunk, lane);
  }
#pragma unroll
  for (int n = 0; n < kHeadPlanes; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) sums.dq[n][i] *= scale;
  }
  __syncwarp();
  stage_result(kGrads + slots, sums.dq, unit, lane);
}

// Floats from one offset to the next where the warps' sums are added: no bank conflicts.
constexpr int kTableStride = D <= 16 ? D / 2 : D / 2 + 8;

// Where the lane's entries 2 * h and 2 * h + 1 of accumulator n belong in (2, K, kTableStride), or -1.
SASA_DEVICE int table_index(int n, int h, const Lane& lane) {
  const bool column = kOffsetTiles == 1 ? h == 1 : n >= kTableSums / 2;
  const int offset = kOffsetTiles == 1 ? lane.g : lane.g + 8 * h;
  int channel = 2 * lane.t;
  if (D == 8) channel -= column ? 4 : 0;
  if (D != 8) channel += 8 * (n % (kHeadPlanes / 2 > 0 ? kHeadPlanes / 2 : 1));
  if (offset >= K || channel < 0 || channel >= D / 2) return -1;
  return ((column ? K : 0) + offset) * kTableStride + channel;
}

// The block's part of the tables' gradients: the warps' sums, added in their order.
SASA_DEVICE void write_tables(const float (&dr)[kTableSums][4], const LocalBackward& call, const LocalTiling& tiling,
                              const LocalWork& work, const BlockPlace& place, int warp, const Lane& lane) {
  using Two = Vector<float, 2>;
  constexpr int kHalf = D / 2, kEntries = K * kHalf, kHeadBytes = 2 * K * kTableStride * 4;
  for (int turn = 0; turn < kWarps / kHeads; turn++) {
    __syncthreads();
    if (warp / kHeads != turn) continue;
#pragma unroll
    for (int n = 0; n < kTableSums; n++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int index = table_index(n, h, lane);
        if (index < 0) continue;
        const unsigned at = warp % kHeads * kHeadBytes + index * 4;
        const Two before = turn == 0 ? Two{0, 0} : load_shared<Two>(at);
        store_shared(at, Two{before.at[0] + dr[n][2 * h], before.at[1] + dr[n][2 * h + 1]});
      }
    }
  }
  __syncthreads();
  const float scale = static_cast<float>(call.shape.scale);
  const int64_t heads = call.shape.heads;
#pragma unroll 1
  for (int i = threadIdx.x; i < kHeads * 2 * kEntries; i += kThreads) {
    const int row = i / kHalf, h = row / (2 * K), column = row / K % 2, entry = i % kEntries;
    const float value = load_shared<float>((row * kTableStride + i % kHalf) * 4) * scale;
    if (tiling.chunks == 1) {
      float* to = static_cast<float*>(column != 0 ? call.grad_col : call.grad_row);
      store_global(to + (place.image * heads + place.head + h) * kEntries + entry, value);
    } else {
      const int64_t part = (place.image * tiling.chunks + place.chunk) * heads + place.head + h;
      store_global(work.parts + (2 * part + column) * kEntries + entry, value);
    }
  }
}

SASA_DEVICE void copy_queries(const LocalBackward& call, const BlockPlace& place, int y0, int x0) {
  const int height = call.shape.height, width = call.shape.width;
  if constexpr (kContent) copy_halo(0, call.key, place.image, place.head, y0, x0, height, width);
  copy_tile(kQueries, call.query, place.image, place.head, y0, x0, height, width);
  copy_tile(kGrads, call.grad_output, place.image, place.head, y0, x0, height, width);
  copy_halo(kValues, call.value, place.image, place.head, y0, x0, height, width);
  commit_copies();
}

SASA_KERNEL(kThreads)
void sasa_local_queries(SASA_ARGUMENT LocalBackward call, SASA_ARGUMENT LocalTiling tiling,
                        SASA_ARGUMENT LocalWork work) {
  const BlockPlace place = block_place(tiling);
  const Lane lane;
  const int warp = threadIdx.x / 32, height = call.shape.height, width = call.shape.width;
  const unsigned scratch = kScratch + warp * (kLayout.terms() + kLayout.offset_sums());
  int y0 = place.tile / tiling.tiles_x * kBlockH, x0 = place.tile % tiling.tiles_x * kBlockW;
  float dr[kTableSums][4];
  clear(dr);
  if constexpr (kPosition) {
    load_tables(kTables, call.rel_row, call.rel_col, place.head);
    for (int i = lane.id; i < kLayout.offset_sums() / kChunk; i += 32) {
      store_shared(scratch + kLayout.terms() + i * kChunk, Chunk{});
    }
  }
#pragma unroll 1
  for (int tile = place.tile; tile < place.last_tile; tile++) {
    copy_queries(call, place, y0, x0);
    float* logsumexp = static_cast<float*>(const_cast<void*>(call.logsumexp));
    move_tile_floats<false>(logsumexp, kLse, call.shape, place, y0, x0);
    wait_copies<0>();
    __syncthreads();
#pragma unroll 1
    for (int unit = warp / kHeads; unit < kUnits; unit += kWarps / kHeads) {
      const Pixel first = pixel_of_slot(unit * 16, y0, x0);
      if (first.y >= height || first.x >= width) continue;
      queries_unit(dr, call, scratch, unit, warp % kHeads, y0, x0, lane);
    }
    __syncthreads();
#pragma unroll 1
    for (int unit = warp; unit < kUnits; unit += kWarps) {
      write_unit(call.grad_query, kGrads, place.image, place.head, unit, y0, x0, height, width, lane);
    }
    move_tile_floats<true>(work.delta, kDelta, call.shape, place, y0, x0);
    __syncthreads();
    x0 += kBlockW;
    if (x0 >= width) x0 = 0, y0 += kBlockH;
  }
  if constexpr (kPosition) write_tables(dr, call, tiling, work, place, warp, lane);
}

}  // namespace sasa
