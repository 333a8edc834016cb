// Eq. 3 without tensor cores: one pass over the window, with a running maximum. See plain_group.cuh.
// The build also gives SASA_POOL, 1 or 2.
#include "plain_group.cuh"

namespace sasa {

constexpr int kPool = SASA_POOL;
static_assert(kRows % kPool == 0, "the rows of a group make whole rows of the pooled map");

// The softmax so far of the queries of a group, and the values that it weighs.
struct Running {
  Compute maximum[kRows], sum[kRows], output[kRows][kWidth];

  SASA_DEVICE void clear() {
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      maximum[r] = -infinity(), sum[r] = 0;
#pragma unroll
      for (int e = 0; e < kWidth; e++) output[r][e] = 0;
    }
  }

  // Takes in some logits of query r, which become weights.
  template <int N>
  SASA_DEVICE void take(int r, Compute (&logits)[N]) {
    Compute highest = maximum[r];
#pragma unroll
    for (int i = 0; i < N; i++) highest = larger(highest, logits[i]);
    const Compute shift = finite_shift(highest);
    const Compute factor = exponential(maximum[r] - shift);
    maximum[r] = highest;
    sum[r] *= factor;
#pragma unroll
    for (int i = 0; i < N; i++) {
      logits[i] = exponential(logits[i] - shift);
      sum[r] += logits[i];
    }
#pragma unroll
    for (int e = 0; e < kWidth; e++) output[r][e] *= factor;
  }
};

// Attention of the queries (group.y + r, x).
SASA_DEVICE void attend(const LocalForward& call, const Group& group, int x, Running& state) {
  const LocalShape& shape = call.shape;
  const QueryMap queries(call.query, group), keys(call.key, group);
  const ValueMap values(call.value, group);
  const RowTable rows(call.rel_row, group);
  const ColumnTable columns(call.rel_col, group);
  const Compute factor = static_cast<Compute>(shape.scale) * kUnit<Compute>;
  const bool content = call.key.data != nullptr, relative = call.rel_row != nullptr;
  Compute query[kRows][kDepth];
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    queries.load(query[r], group.y + r, x, group.inside && x < shape.width && group.y + r < shape.height);
  }
  state.clear();
#pragma unroll 1
  for (int j = 0; j < kRows + K - 1; j++) {  // query r sees this row of keys as row j - r of its window
    const int key_y = group.y + j - kHalf;
    const bool row_inside = group.inside && within(key_y, shape.height);
    Compute of_row[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      if (relative && within(j - r, K)) {
        Compute embedding[kDepth];
        rows.load(embedding, j - r);
        of_row[r] = dot(query[r], embedding, Compute(0));
      }
    }
#pragma unroll 1
    for (int begin = 0; begin < K; begin += kUnroll) {
      Compute weights[kRows][kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; i++) {
        const int key_x = x + begin + i - kHalf;
        const bool inside = row_inside && within(key_x, shape.width);
        Compute key[kDepth], embedding[kDepth];
        columns.load(embedding, begin + i);
        keys.load(key, key_y, key_x, inside && content);
#pragma unroll
        for (int d = 0; d < kDepth; d++) key[d] += embedding[d];
#pragma unroll
        for (int r = 0; r < kRows; r++) {
          if (!within(j - r, K)) continue;
          const Compute logit = sum_of_group(dot(query[r], key, of_row[r])) * factor;
          weights[r][i] = shape.mask && !inside ? -infinity() : logit;
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        if (within(j - r, K)) state.take(r, weights[r]);
      }
#pragma unroll
      for (int i = 0; i < kUnroll; i++) {
        const int key_x = x + begin + i - kHalf;
        Compute value[kWidth];
        values.load(value, key_y, key_x, row_inside && within(key_x, shape.width));
#pragma unroll
        for (int r = 0; r < kRows; r++) {
          if (within(j - r, K)) add_scaled(state.output[r], weights[r][i], value);
        }
      }
    }
  }
}

// What may follow in inference: y -> gain * y + shift, then ReLU. NaN stays.
SASA_DEVICE void finish(const LocalForward& call, const Group& group, Compute (&y)[kWidth]) {
#pragma unroll
  for (int e = 0; e < kWidth; e++) {
    const int channel = group.lane * kWidth + e;
    if (E % kWidth != 0 && channel >= E) continue;
    if (call.gain != nullptr) y[e] *= load_global(static_cast<const Compute*>(call.gain) + group.n * E + channel);
    if (call.shift != nullptr) y[e] += load_global(static_cast<const Compute*>(call.shift) + group.n * E + channel);
    if (call.relu && y[e] < 0) y[e] = 0;
  }
}

}  // namespace sasa

SASA_KERNEL(128) void sasa_plain_forward(SASA_ARGUMENT sasa::LocalForward call) {
  using namespace sasa;
  const LocalShape& shape = call.shape;
  const Tiling tiling(shape, kPool);
  const Group group(blockIdx.x, tiling.tiles_of_image, blockIdx.y * tiling.heads, tiling.heads, tiling.columns,
                    tiling.rows);
  Compute pooled[kRows / kPool][kWidth] = {};
#pragma unroll 1
  for (int column = 0; column < kPool; column++) {
    const int x = group.x * kPool + column;
    Running state;
    attend(call, group, x, state);
    const bool column_inside = group.inside && x < shape.width;
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      if (!column_inside || group.y + r >= shape.height) continue;
      if (call.logsumexp != nullptr && group.lane == 0) {
        const int64_t pixel = ((group.b * shape.heads + group.n) * shape.height + group.y + r) * shape.width + x;
        const Compute all = log_sum(finite_shift(state.maximum[r]), state.sum[r]);
        store_global(static_cast<Compute*>(call.logsumexp) + pixel, all);
      }
      add_scaled(pooled[r / kPool], 1 / state.sum[r], state.output[r]);
    }
  }
  const ValueMap outputs(call.output, group);
#pragma unroll
  for (int r = 0; r < kRows / kPool; r++) {
    const int y = group.y + r * kPool, x = group.x * kPool;
    if (!group.inside || y >= shape.height) continue;
    const int there = (y + kPool <= shape.height ? kPool : 1) * (x + kPool <= shape.width ? kPool : 1);
    Compute result[kWidth];
#pragma unroll
    for (int e = 0; e < kWidth; e++) result[e] = pooled[r][e] / static_cast<Compute>(there);
    finish(call, group, result);
    outputs.store(result, y / kPool, group.x);
  }
}
