// How the kernels of plain_*.cuh are launched: local attention without tensor cores, whatever the operator allows. Plain
// host C++.
#pragma once
#include "launch.h"
#include "plan_maps.h"
#include "workspaces.h"

namespace sasa {

// Launches of one operator, in order, and what has to be allocated for them.
struct PlainPlan {
  Launch queries, keys;   // backward; `queries` alone: forward
  int64_t parts = 0;      // of PlainWorkspace's rows and columns; to be summed by sum_parts
  int64_t delta_elements = 0;
};

namespace plain {

constexpr int kThreads = 128;

inline int divide_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Lanes that share a head of `channels` channels, about `target` of them to a lane.
inline int lanes(int64_t channels, int64_t target) {
  int lanes = 1;
  while (lanes < 32 && divide_up(channels, lanes) > target) lanes *= 2;
  return lanes;
}

// Elements that a lane with `mine` of a head's `channels` loads at once from maps of that alignment.
inline int vector(int64_t channels, int lanes, size_t element, size_t alignment) {
  if (channels % lanes != 0) return 1;
  const int64_t mine = channels / lanes;
  int vector = 1;
  while (vector * 2 * element <= alignment && mine % (vector * 2) == 0) vector *= 2;
  return vector;
}

// What the kernels of a call have in common.
struct Tuning {
  int lanes, rows;
  bool planar;
};

// `depth` and `rows`: channels of a lane and pixels of a group that the kernel's registers hold well.
inline Tuning tune(const LocalShape& shape, const Map& query, int64_t depth, int rows) {
  Tuning tuning;
  const int64_t channels = shape.head_dim > shape.value_dim ? shape.head_dim : shape.value_dim;
  tuning.lanes = lanes(channels, depth);
  const bool wide = divide_up(channels, tuning.lanes) > depth || shape.window > 11;  // registers are short
  tuning.rows = wide ? 1 : rows;
  tuning.planar = query.stride[1] != 1 && shape.heads <= 65535;
  return tuning;
}

inline Launch launch(const char* source, const char* kernel, const LocalShape& shape, const Tuning& tuning,
                     size_t maps_of_queries, size_t maps_of_values, size_t tables) {
  Launch launch;
  launch.source = source;
  launch.kernel = kernel;
  launch.threads = kThreads;
  const size_t element = element_bytes(shape.storage), compute = compute_bytes(shape.storage);
  launch.define("SASA_STORAGE", static_cast<int>(shape.storage));
  launch.define("SASA_K", static_cast<int>(shape.window));
  launch.define("SASA_D", static_cast<int>(shape.head_dim));
  launch.define("SASA_E", static_cast<int>(shape.value_dim));
  launch.define("SASA_LANES", tuning.lanes);
  launch.define("SASA_ROWS", tuning.rows);
  launch.define("SASA_PLANAR", tuning.planar);
  launch.define("SASA_VECTOR_D", vector(shape.head_dim, tuning.lanes, element, maps_of_queries));
  launch.define("SASA_VECTOR_E", vector(shape.value_dim, tuning.lanes, element, maps_of_values));
  // A lane loads embeddings of one half of the head's channels.
  const int64_t half = shape.head_dim / 2;
  launch.define("SASA_VECTOR_TABLE", tuning.lanes == 1 ? vector(half > 0 ? half : 1, 1, compute, tables)
                                                       : vector(shape.head_dim, tuning.lanes, compute, tables));
  return launch;
}

inline int64_t tiles_of_image(const LocalShape& shape, const Tuning& tuning, int64_t pool) {
  const int64_t heads = tuning.planar ? 1 : shape.heads, groups = kThreads / tuning.lanes;
  const int64_t pixels = divide_up(shape.width, pool) * static_cast<int64_t>(divide_up(shape.height, tuning.rows));
  return (pixels * heads + groups - 1) / groups;
}

// Whether the kernels' counters hold the call; what they do not is 2^31 pixels and heads of one image.
inline bool fits(const LocalShape& shape) {
  const int64_t most = int64_t{1} << 31;
  return shape.height * shape.width < most / shape.heads && shape.batch * shape.height * shape.width * shape.heads < most * 32;
}

// Blocks that make parts of the tables' gradients: a number that depends on the shape alone, so that sums do too.
inline int64_t parts(const LocalShape& shape, int64_t tiles) {
  const int64_t bytes = shape.heads * shape.window * shape.head_dim * static_cast<int64_t>(compute_bytes(shape.storage));
  int64_t most = (int64_t{32} << 20) / (bytes > 0 ? bytes : 1);
  most = most < 64 ? 64 : most > 4096 ? 4096 : most;
  return tiles < most ? tiles : most;
}

}  // namespace plain

inline PlainPlan plan_plain_forward(const LocalForward& call) {
  using namespace plain;
  const LocalShape& shape = call.shape;
  const bool wide = shape.storage == Storage::float64;
  const Tuning tuning = tune(shape, call.query, wide ? 4 : 8, shape.window > 7 || wide ? 2 : 4);
  const bool pool_fits = tuning.rows % call.pool == 0;
  PlainPlan plan;
  Tuning used = tuning;
  if (!pool_fits) used.rows = static_cast<int>(call.pool);
  plan.queries = launch("plain_forward.cuh", "sasa_plain_forward", shape, used, alignment({call.query, call.key}, element_bytes(shape.storage)),
                        alignment({call.value, call.output}, element_bytes(shape.storage)), alignment_of({call.rel_row, call.rel_col}));
  plan.queries.define("SASA_POOL", static_cast<int>(call.pool));
  plan.queries.grid[0] = static_cast<unsigned>(shape.batch * tiles_of_image(shape, used, call.pool));
  plan.queries.grid[1] = used.planar ? static_cast<unsigned>(shape.heads) : 1;
  return plan;
}

inline PlainPlan plan_plain_backward(const LocalBackward& call) {
  using namespace plain;
  const LocalShape& shape = call.shape;
  const bool wide = shape.storage == Storage::float64;
  const Tuning tuning = tune(shape, call.query, wide ? 4 : 8, 2);
  const size_t of_queries = alignment({call.query, call.key, call.grad_query, call.grad_key}, element_bytes(shape.storage));
  const size_t of_values = alignment({call.value, call.grad_output, call.grad_value}, element_bytes(shape.storage));
  const size_t tables = alignment_of({call.rel_row, call.rel_col});
  const int64_t tiles = shape.batch * tiles_of_image(shape, tuning, 1);
  const unsigned heads = tuning.planar ? static_cast<unsigned>(shape.heads) : 1;
  PlainPlan plan;
  plan.delta_elements = shape.batch * shape.heads * shape.height * shape.width;
  plan.parts = call.rel_row == nullptr ? 0 : parts(shape, tiles);
  plan.queries = launch("plain_queries.cuh", "sasa_plain_queries", shape, tuning, of_queries, of_values, tables);
  plan.queries.grid[0] = static_cast<unsigned>(plan.parts > 0 ? plan.parts : tiles);
  plan.queries.grid[1] = heads;
  if (plan.parts > 0) {
    const int64_t record = 2 * shape.window + shape.head_dim;
    plan.queries.shared = (kThreads / tuning.lanes) * tuning.rows * record * compute_bytes(shape.storage);
  }
  plan.keys = launch("plain_keys.cuh", "sasa_plain_keys", shape, tuning, of_queries, of_values, tables);
  plan.keys.grid[0] = static_cast<unsigned>(tiles);
  plan.keys.grid[1] = heads;
  return plan;
}

// The sum of parts, of float or double.
inline Launch plan_sum_parts(int64_t count, bool of_double) {
  Launch launch;
  launch.source = "sum_parts.cuh";
  launch.kernel = "sasa_sum_parts";
  launch.threads = 1024;
  launch.shared = 1024 * sizeof(double);
  launch.define("SASA_DOUBLE", of_double);
  launch.grid[0] = static_cast<unsigned>((count + 31) / 32);
  return launch;
}

}  // namespace sasa
