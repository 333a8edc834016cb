// Gradients of the queries and of both tables, and delta = sum p dp of each query, without tensor cores:
//
//     p = exp(logit - lse)      dp = dy . v      ds = p (dp - delta)
//     dq = scale sum ds (k + r)      dr = scale sum ds q
//
// The window is walked over twice: for delta, then for ds. A block adds up the tables' gradients of all its tiles in
// its own part of the workspace, in a fixed order; sum_parts.cuh adds the parts. See plain_group.cuh.
#include "plain_group.cuh"

namespace sasa {

// A group's queries and what it reads.
struct Queries {
  const LocalBackward& call;
  const Group& group;
  const QueryMap keys;
  const ValueMap values;
  const RowTable rows;
  const ColumnTable columns;
  const Compute factor;
  const bool content, relative;
  Compute query[kRows][kDepth], grad[kRows][kWidth], logsumexp[kRows], delta[kRows];

  SASA_DEVICE Queries(const LocalBackward& given, const Group& mine)
      : call(given),
        group(mine),
        keys(given.key, mine),
        values(given.value, mine),
        rows(given.rel_row, mine),
        columns(given.rel_col, mine),
        factor(static_cast<Compute>(given.shape.scale) * kUnit<Compute>),
        content(given.key.data != nullptr),
        relative(given.rel_row != nullptr) {
    const QueryMap queries(call.query, group);
    const ValueMap grads(call.grad_output, group);
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      queries.load(query[r], group.y + r, group.x, inside(r));
      grads.load(grad[r], group.y + r, group.x, inside(r));
      logsumexp[r] = inside(r) ? load_global(static_cast<const Compute*>(call.logsumexp) + pixel(r)) : Compute(0);
      logsumexp[r] *= kUnit<Compute>;
      delta[r] = 0;
    }
  }

  SASA_DEVICE bool inside(int r) const { return group.inside && group.y + r < call.shape.height; }
  SASA_DEVICE int64_t pixel(int r) const {
    const LocalShape& shape = call.shape;
    return ((group.b * shape.heads + group.n) * shape.height + group.y + r) * shape.width + group.x;
  }

  // Calls begin(j) before and end(j) after row j of the keys that the group sees, and key(j, b, p, dp, k) for each key:
  // p and dp of each query r that sees it, in row j - r and column b of its window; k is the key with its column's
  // embedding. p and dp of positions that padding="mask" hides are zero.
  template <class Begin, class Key, class End>
  SASA_DEVICE void walk(Begin&& begin, Key&& key_seen, End&& end) const {
#pragma unroll 1
    for (int j = 0; j < kRows + K - 1; j++) {
      const int key_y = group.y + j - kHalf;
      const bool row_inside = group.inside && within(key_y, call.shape.height);
      Compute of_row[kRows] = {};
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        if (!relative || !within(j - r, K)) continue;
        Compute embedding[kDepth];
        rows.load(embedding, j - r);
        of_row[r] = dot(query[r], embedding, Compute(0));
      }
      begin(j);
#pragma unroll kUnroll
      for (int b = 0; b < K; b++) {
        const int key_x = group.x + b - kHalf;
        const bool key_inside = row_inside && within(key_x, call.shape.width);
        const bool hidden = call.shape.mask && !key_inside;
        Compute key[kDepth], embedding[kDepth], value[kWidth], p[kRows] = {}, dp[kRows] = {};
        keys.load(key, key_y, key_x, key_inside && content);
        values.load(value, key_y, key_x, key_inside);
        columns.load(embedding, b);
#pragma unroll
        for (int d = 0; d < kDepth; d++) key[d] += embedding[d];
#pragma unroll
        for (int r = 0; r < kRows; r++) {
          if (!within(j - r, K)) continue;
          const Compute logit = sum_of_group(dot(query[r], key, of_row[r])) * factor;
          const Compute product = sum_of_group(dot(grad[r], value, Compute(0)));
          p[r] = hidden ? Compute(0) : exponential(logit - logsumexp[r]);
          dp[r] = hidden ? Compute(0) : product;
        }
        key_seen(j, b, p, dp, key, hidden);
      }
      end(j);
    }
  }

  SASA_DEVICE void find_delta() {
    auto nothing = [](int) {};
    walk(
        nothing,
        [&](int j, int, const Compute(&p)[kRows], const Compute(&dp)[kRows], const Compute(&)[kDepth], bool) {
#pragma unroll
          for (int r = 0; r < kRows; r++) {
            if (within(j - r, K)) delta[r] += p[r] * dp[r];
          }
        },
        nothing);
  }
};

// Shared memory of a block, for the tables: of each group and each of its queries the sums of ds over rows and columns
// of the window, and the query.
constexpr int kSums = 2 * K, kRecord = kSums + D;
SASA_DEVICE unsigned record(int group, int r) {
  return static_cast<unsigned>((group * kRows + r) * kRecord * sizeof(Compute));
}
SASA_DEVICE void put(unsigned record, int i, Compute x) { store_shared(record + i * unsigned(sizeof(Compute)), x); }
SASA_DEVICE Compute get(unsigned record, int i) { return load_shared<Compute>(record + i * unsigned(sizeof(Compute))); }

// dq of a group's queries; their sums of ds into shared memory.
SASA_DEVICE void grad_of_queries(const Queries& q) {
  const bool relative = q.relative;
  Compute grad[kRows][kDepth] = {}, of_row[kRows], of_columns[kRows][K] = {};
  q.walk(
      [&](int) {
#pragma unroll
        for (int r = 0; r < kRows; r++) of_row[r] = 0;
      },
      [&](int j, int b, const Compute(&p)[kRows], const Compute(&dp)[kRows], const Compute(&key)[kDepth], bool hidden) {
#pragma unroll
        for (int r = 0; r < kRows; r++) {
          if (!within(j - r, K)) continue;
          const Compute ds = hidden ? Compute(0) : p[r] * (dp[r] - q.delta[r]);
          add_scaled(grad[r], ds, key);
          of_row[r] += ds;
          of_columns[r][b] += ds;
        }
      },
      [&](int j) {
#pragma unroll
        for (int r = 0; r < kRows; r++) {
          if (!relative || !within(j - r, K)) continue;
          Compute embedding[kDepth];
          q.rows.load(embedding, j - r);
          add_scaled(grad[r], of_row[r], embedding);
          if (q.group.lane == 0) put(record(q.group.index, r), j - r, q.inside(r) ? of_row[r] : Compute(0));
        }
      });
  const QueryMap gradients(q.call.grad_query, q.group);
  const Compute scale = static_cast<Compute>(q.call.shape.scale);
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    if (relative) {
#pragma unroll kUnroll
      for (int b = 0; b < K; b++) {
        if (b % kLanes != q.group.lane) continue;
        put(record(q.group.index, r), K + b, q.inside(r) ? of_columns[r][b] : Compute(0));
      }
#pragma unroll
      for (int d = 0; d < kDepth; d++) {
        const int c = q.group.lane * kDepth + d;
        if (D % kDepth == 0 || c < D) put(record(q.group.index, r), kSums + c, q.query[r][d]);
      }
    }
    if (!q.inside(r)) continue;
#pragma unroll
    for (int d = 0; d < kDepth; d++) grad[r][d] *= scale;
    gradients.store(grad[r], q.group.y + r, q.group.x);
  }
}

// Adds the tables' gradients of the queries in shared memory to the block's part. Each element belongs to one thread.
SASA_DEVICE void add_to_tables(const LocalBackward& call, const PlainWorkspace& workspace, const Tiling& tiling,
                               int first_head, int first_group, bool first_tile) {
  constexpr int half = D / 2;
  const Compute scale = static_cast<Compute>(call.shape.scale);
  const int64_t part = static_cast<int64_t>(blockIdx.x) * call.shape.heads + first_head;
  for (int i = threadIdx.x; i < tiling.heads * K * D; i += kThreads) {
    const int n = i / (K * D), offset = i / D % K, c = i % D;
    Compute sum = 0;
    // Groups of head n: the heads take turns.
    for (int g = (n - first_group % tiling.heads + tiling.heads) % tiling.heads; g < kGroups; g += tiling.heads) {
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        sum += get(record(g, r), (c < half ? 0 : K) + offset) * get(record(g, r), kSums + c);
      }
    }
    Compute* table = static_cast<Compute*>(c < half ? workspace.rows : workspace.columns);
    Compute* to = table + ((part + n) * K + offset) * half + c % half;
    store_global(to, first_tile ? sum * scale : load_global(const_cast<const Compute*>(to)) + sum * scale);
  }
}

}  // namespace sasa

SASA_KERNEL(128)
void sasa_plain_queries(SASA_ARGUMENT sasa::LocalBackward call, SASA_ARGUMENT sasa::PlainWorkspace workspace) {
  using namespace sasa;
  const LocalShape& shape = call.shape;
  const Tiling tiling(shape, 1);
  const int first_head = blockIdx.y * tiling.heads;
  const int64_t tiles = shape.batch * tiling.tiles_of_image;
#pragma unroll 1
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Group group(tile, tiling.tiles_of_image, first_head, tiling.heads, tiling.columns, tiling.rows);
    Queries queries(call, group);
    queries.find_delta();
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      if (group.lane == 0 && queries.inside(r)) {
        store_global(static_cast<Compute*>(workspace.delta) + queries.pixel(r), queries.delta[r]);
      }
    }
    grad_of_queries(queries);
    if (call.rel_row == nullptr) continue;
    __syncthreads();
    const int first_group = static_cast<int>(tile % tiling.tiles_of_image) * kGroups % tiling.heads;
    add_to_tables(call, workspace, tiling, first_head, first_group, tile == blockIdx.x);
    __syncthreads();
  }
}
