// Gradients of the keys and values without tensor cores: each key gathers from the queries that saw it, which lie in a
// window around it. Nothing is scattered, so every sum has one order. See plain_group.cuh; plain_queries.cuh goes
// first.
//
//     p = exp(logit - lse)      ds = p (dy . v - delta)      dk = scale sum ds q      dv = sum p dy
#include "plain_group.cuh"

namespace sasa {

// The keys (group.y + r, group.x) and their gradients.
struct Keys {
  const LocalBackward& call;
  const Group& group;
  const bool content, relative;
  Compute key[kRows][kDepth], value[kRows][kWidth], grad_key[kRows][kDepth], grad_value[kRows][kWidth];

  SASA_DEVICE Keys(const LocalBackward& given, const Group& mine)
      : call(given), group(mine), content(given.key.data != nullptr), relative(given.rel_row != nullptr) {
    const QueryMap keys(call.key, group);
    const ValueMap values(call.value, group);
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      keys.load(key[r], group.y + r, group.x, inside(r) && content);
      values.load(value[r], group.y + r, group.x, inside(r));
#pragma unroll
      for (int d = 0; d < kDepth; d++) grad_key[r][d] = 0;
#pragma unroll
      for (int e = 0; e < kWidth; e++) grad_value[r][e] = 0;
    }
  }

  SASA_DEVICE bool inside(int r) const { return group.inside && group.y + r < call.shape.height; }

  SASA_DEVICE void gather(const PlainWorkspace& workspace) {
    const LocalShape& shape = call.shape;
    const QueryMap queries(call.query, group);
    const ValueMap grads(call.grad_output, group);
    const RowTable rows(call.rel_row, group);
    const ColumnTable columns(call.rel_col, group);
    const Compute factor = static_cast<Compute>(shape.scale) * kUnit<Compute>;
    const int64_t plane = (group.b * shape.heads + group.n) * shape.height * shape.width;
#pragma unroll 1
    for (int j = 0; j < kRows + K - 1; j++) {  // a row of queries; key r lies in row K - 1 + r - j of their windows
      const int y = group.y + j - kHalf;
      const bool row_inside = group.inside && within(y, shape.height);
      Compute seen[kRows][kDepth];  // the key, as that row's embedding makes it
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        if (!within(j - r, K)) continue;
        rows.load(seen[r], K - 1 + r - j);
#pragma unroll
        for (int d = 0; d < kDepth; d++) seen[r][d] += key[r][d];
      }
#pragma unroll kUnroll
      for (int i = 0; i < K; i++) {  // a column of queries; the keys lie in column K - 1 - i of their windows
        const int x = group.x + i - kHalf;
        const bool query_inside = row_inside && within(x, shape.width);
        Compute query[kDepth], grad[kWidth], embedding[kDepth], logsumexp = 0, delta = 0;
        queries.load(query, y, x, query_inside);
        grads.load(grad, y, x, query_inside);
        if (query_inside) {
          const int64_t pixel = plane + static_cast<int64_t>(y) * shape.width + x;
          logsumexp = load_global(static_cast<const Compute*>(call.logsumexp) + pixel) * kUnit<Compute>;
          delta = load_global(static_cast<const Compute*>(workspace.delta) + pixel);
        }
        columns.load(embedding, K - 1 - i);
        const Compute of_column = relative ? dot(query, embedding, Compute(0)) : Compute(0);
#pragma unroll
        for (int r = 0; r < kRows; r++) {
          if (!within(j - r, K)) continue;
          const Compute logit = sum_of_group(dot(query, seen[r], of_column)) * factor;
          const Compute product = sum_of_group(dot(grad, value[r], Compute(0)));
          const Compute p = query_inside ? exponential(logit - logsumexp) : Compute(0);
          const Compute ds = query_inside ? p * (product - delta) : Compute(0);
          add_scaled(grad_key[r], ds, query);
          add_scaled(grad_value[r], p, grad);
        }
      }
    }
  }

  SASA_DEVICE void store() {
    const QueryMap grad_keys(call.grad_key, group);
    const ValueMap grad_values(call.grad_value, group);
    const Compute scale = static_cast<Compute>(call.shape.scale);
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      if (!inside(r)) continue;
      grad_values.store(grad_value[r], group.y + r, group.x);
      if (!content) continue;
#pragma unroll
      for (int d = 0; d < kDepth; d++) grad_key[r][d] *= scale;
      grad_keys.store(grad_key[r], group.y + r, group.x);
    }
  }
};

}  // namespace sasa

SASA_KERNEL(128)
void sasa_plain_keys(SASA_ARGUMENT sasa::LocalBackward call, SASA_ARGUMENT sasa::PlainWorkspace workspace) {
  using namespace sasa;
  const Tiling tiling(call.shape, 1);
  const Group group(blockIdx.x, tiling.tiles_of_image, blockIdx.y * tiling.heads, tiling.heads, tiling.columns,
                    tiling.rows);
  Keys keys(call, group);
  keys.gather(workspace);
  keys.store();
}
