// Local attention, forward, on tensor cores: see local_tile.cuh.
#pragma once
#include "local_position.cuh"

namespace sasa {

constexpr int kStage = kLayout.forward_stage(), kValues = (kContent ? kPlanes : 0) * kHaloPlane;
constexpr int kQueries = kValues + kPlanes * kHaloPlane;
constexpr int kTables = kLayout.stages * kStage, kTerms = kTables + kLayout.tables();
constexpr int kSums = kTerms + kLayout.warps() * kLayout.terms();

SASA_DEVICE void copy_forward(const LocalForward& call, const BlockPlace& place, unsigned to, int y0, int x0) {
  const int height = call.shape.height, width = call.shape.width;
  if constexpr (kContent) copy_halo(to, call.key, place.image, place.head, y0, x0, height, width);
  copy_tile(to + kQueries, call.query, place.image, place.head, y0, x0, height, width);
  copy_halo(to + kValues, call.value, place.image, place.head, y0, x0, height, width);
}

// softmax(s) . values: the sums are not yet divided; returns what to divide by, and the maxima.
SASA_DEVICE void weighted_values(float (&o)[kHeadPlanes][4], float (&sum)[4], const float (&s)[K][kColumnTiles][4],
                                 const float (&most)[2], unsigned values, const Lane& lane) {
  clear(o);
#pragma unroll
  for (int e = 0; e < 4; e++) sum[e] = 0;
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    unsigned pairs[2][2], a[4];
#pragma unroll
    for (int which = 0; which < 2; which++) {
      const SeenTile tile = seen_tile(step, which);
      const auto& x = s[tile.place()][tile.column_tile];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        pairs[which][h] = pack<Element>(exp2_approx(x[2 * h] - most[h]), exp2_approx(x[2 * h + 1] - most[h]));
      }
    }
    seen_operand(a, pairs, step, lane);
    add_weighted<false>(o, a, values, step, lane);
    multiply<Element>(sum, a, ones<Element>(), ones<Element>());
  }
}

// A head of a unit: o and sum as in weighted_values; `most` the largest logits.
SASA_DEVICE void sum_unit(float (&o)[kHeadPlanes][4], float (&sum)[4], float (&most)[2], const UnitPlace& at,
                          const Lane& lane) {
  float s[K][kColumnTiles][4];
  Fragments q;
  Bias bias;
  load_fragments(q, at.queries, at.unit, lane);
  position_bias(bias, q, at.tables, at.terms, at.factor, at.hidden, lane);
  logits(s, q, at.keys, bias, at.factor, lane);
  most[0] = most[1] = -infinity();
#pragma unroll
  for (int r = 0; r < K; r++) {
#pragma unroll
    for (int ct = 0; ct < kColumnTiles; ct++) {
#pragma unroll
      for (int i = 0; i < 4; i++) most[i / 2] = fmaxf(most[i / 2], s[r][ct][i]);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    most[h] = quad_max(most[h]);
    // With padding="mask" a pixel beyond the map may see no key: weights of 0, as NaN would repeat the unit exactly.
    if (kMask && most[h] == -infinity()) most[h] = 0;
  }
  weighted_values(o, sum, s, most, at.keys + kValues, lane);
}

// The same where something is not finite, with logits computed twice: for the maxima, then for the sums. A logit of +inf
// makes the output NaN, but the log-sum-exp +inf: the weights of other keys are zero, not NaN.
SASA_DEVICE void sum_unit_exactly(float (&o)[kHeadPlanes][4], float (&sum)[4], float (&most)[2], const UnitPlace& at,
                                  const Lane& lane) {
  Fragments q;
  Bias bias;
  load_fragments(q, at.queries, at.unit, lane);
  position_bias(bias, q, at.tables, at.terms, at.factor, at.hidden, lane);
  float nan[2] = {0, 0};
  most[0] = most[1] = -infinity();
  clear(o);
#pragma unroll
  for (int e = 0; e < 4; e++) sum[e] = 0;
#pragma unroll 1
  for (int pass = 0; pass < 2; pass++) {
#pragma unroll 1
    for (int step = 0; step < kSteps; step++) {
      float s[2][4];
      bool seen[2][4];
      unsigned pairs[2][2], a[4];
      step_logits(s, seen, q, at.keys, bias, at.terms, at.hidden, at.factor, step, lane);
      if (pass == 0) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float x = s[i / 4][i % 4];
          most[i / 2 % 2] = fmaxf(most[i / 2 % 2], x), nan[i / 2 % 2] = x != x ? 1.f : nan[i / 2 % 2];
        }
        continue;
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float *x = &s[i / 2][i % 2 * 2], less = most[i % 2];
        pairs[i / 2][i % 2] = pack<Element>(exp2_approx(x[0] - less), exp2_approx(x[1] - less));
      }
      seen_operand(a, pairs, step, lane);
      add_weighted_exactly(o, a, at.keys + kValues, step, lane);
      multiply<Element>(sum, a, ones<Element>(), ones<Element>());
    }
    if (pass == 0) most[0] = quad_max(most[0]), most[1] = quad_max(most[1]);
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (quad_max(nan[h]) == 0.f && most[h] == infinity()) sum[2 * h] = infinity();
  }
}

// What follows in inference: y -> gain * y + shift of each channel, then ReLU.
SASA_DEVICE void scale_and_shift(float (&o)[kHeadPlanes][4], const LocalForward& call, int head, const Lane& lane) {
  using Two = Vector<float, 2>;
  const Two* gain = reinterpret_cast<const Two*>(static_cast<const float*>(call.gain) + head * D) + lane.t;
  const Two* shift = reinterpret_cast<const Two*>(static_cast<const float*>(call.shift) + head * D) + lane.t;
#pragma unroll
  for (int n = 0; n < kHeadPlanes; n++) {
    const Two times = call.gain != nullptr ? load_global(gain + 4 * n) : Two{1.f, 1.f};
    const Two plus = call.shift != nullptr ? load_global(shift + 4 * n) : Two{0.f, 0.f};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float y = fmaf(o[n][i], times.at[i % 2], plus.at[i % 2]);
      o[n][i] = call.relu && y < 0 ? 0.f : y;
    }
  }
}

// The mean of 2 x 2 pixels, of those there are, in the lanes and entries of even rows and columns. y, x: of the unit.
SASA_DEVICE void pool_unit(float (&o)[kHeadPlanes][4], int y, int x, int height, int width, const Lane& lane) {
#pragma unroll
  for (int n = 0; n < kHeadPlanes; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool inside = y + lane.y < height && x + lane.x(i / 2) < width;
      if (!inside) o[n][i] = 0;
      o[n][i] += shuffle_xor(o[n][i], 4);                    // the row beside it
      if (kTileW == 4) o[n][i] += shuffle_xor(o[n][i], 16);  // the column beside it
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int even_y = y + lane.y / 2 * 2, even_x = x + lane.x(i / 2) / 2 * 2;
      if (kTileW == 2 && i < 2) o[n][i] += o[n][i + 2];
      o[n][i] *= (even_y + 1 < height ? 0.5f : 1.f) * (even_x + 1 < width ? 0.5f : 1.f);
    }
  }
}

// Writes what pool_unit has left to the pooled map.
SASA_DEVICE void write_pooled(const LocalForward& call, const float (&o)[kHeadPlanes][4], int64_t image, int head,
                              int y, int x, const Lane& lane) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = y + lane.y, column = x + lane.x(h);
    if (row % 2 != 0 || column % 2 != 0 || row >= call.shape.height || column >= call.shape.width) continue;
    Element* to = const_cast<Element*>(pixel_of(call.output, image, row / 2, column / 2, head)) + 2 * lane.t;
#pragma unroll
    for (int n = 0; n < kHeadPlanes; n++) {
      store_global(reinterpret_cast<unsigned*>(to + 8 * n), pack<Element>(o[n][2 * h], o[n][2 * h + 1]));
    }
  }
}

// One head of a unit: its result goes to the unit's slots (pooled ones to the map), its log-sum-exp to `sums`.
SASA_DEVICE void forward_unit(const LocalForward& call, int64_t image, int head, unsigned stage, unsigned terms,
                              int unit, int h, int y0, int x0, const Lane& lane) {
  const Pixel first = pixel_of_slot(unit * 16, y0, x0);
  const UnitPlace at{stage + h * kHeadPlanes * kHaloPlane + seen_origin(unit),
                     terms,
                     kTables + h * kHeadTables,
                     stage + kQueries + h * kHeadPlanes * kTilePlane,
                     unit,
                     hidden_from(first.y, first.x, call.shape.height, call.shape.width, lane),
                     static_cast<float>(call.shape.scale) * kLog2E};
  float o[kHeadPlanes][4], sum[4], most[2];
  sum_unit(o, sum, most, at, lane);
  if (any_not_finite(o)) sum_unit_exactly(o, sum, most, at, lane);
  const float inverse[2] = {1.f / sum[0], 1.f / sum[2]};
#pragma unroll
  for (int n = 0; n < kHeadPlanes; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) o[n][i] *= inverse[i / 2];
  }
  if (call.pool == 2) pool_unit(o, first.y, first.x, call.shape.height, call.shape.width, lane);
  if (call.gain != nullptr || call.shift != nullptr || call.relu) scale_and_shift(o, call, head + h, lane);
  if (call.pool == 2) {
    write_pooled(call, o, image, head + h, first.y, first.x, lane);
  } else {
    __syncwarp();  // all have loaded the queries
    stage_result(at.queries, o, unit, lane);
  }
  if (call.logsumexp != nullptr && lane.t == 0) {
    const unsigned to = kSums + (h * kUnits * 16 + unit * 16 + lane.g) * 4;
    store_shared(to, (most[0] + log2_approx(sum[0])) * kLn2);
    store_shared(to + 32, (most[1] + log2_approx(sum[2])) * kLn2);
  }
}

// Blocks on a multiprocessor that registers should leave room for: as many as there are without spills.
constexpr int kResident = K > 7 || D > 32 ? 1 : D == 8 ? 4 : 3;

SASA_KERNEL(kThreads, kResident)
void sasa_local_forward(SASA_ARGUMENT LocalForward call, SASA_ARGUMENT LocalTiling tiling) {
  BlockPlace place = block_place(tiling);
  const Lane lane;
  const int warp = threadIdx.x / 32, height = call.shape.height, width = call.shape.width;
  int y0 = place.tile / tiling.tiles_x * kBlockH, x0 = place.tile % tiling.tiles_x * kBlockW, stage = 0;
  copy_forward(call, place, 0, y0, x0);
  commit_copies();
  if constexpr (kPosition) load_tables(kTables, call.rel_row, call.rel_col, place.head);
  for (int tile = place.tile; tile < place.last_tile; tile++) {
    int next_y = y0, next_x = x0 + kBlockW;
    if (next_x >= width) next_x = 0, next_y += kBlockH;
    const bool more = tile + 1 < place.last_tile;
    if constexpr (SASA_STAGES == 2) {
      if (more) copy_forward(call, place, kStage - stage, next_y, next_x);
      commit_copies();
    }
    wait_copies<SASA_STAGES - 1>();
    __syncthreads();
    for (int unit = warp; unit < kUnits; unit += kThreads / 32) {
      const Pixel first = pixel_of_slot(unit * 16, y0, x0);
      if (first.y >= height || first.x >= width) continue;
#pragma unroll 1
      for (int h = 0; h < kHeads; h++) {
        forward_unit(call, place.image, place.head, stage, kTerms + warp * kLayout.terms(), unit, h, y0, x0, lane);
      }
      if (call.pool == 2) continue;
      __syncwarp();
      write_unit(call.output, stage + kQueries, place.image, place.head, unit, y0, x0, height, width, lane);
    }
    __syncthreads();
    if (call.logsumexp != nullptr) {
      move_tile_floats<true>(static_cast<float*>(call.logsumexp), kSums, call.shape, place, y0, x0);
    }
    if constexpr (SASA_STAGES == 1) {
      if (more) copy_forward(call, place, 0, next_y, next_x);
      commit_copies();
    } else {
      stage = kStage - stage;
    }
    y0 = next_y, x0 = next_x;
  }
}

}  // namespace sasa
