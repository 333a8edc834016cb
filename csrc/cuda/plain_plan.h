// How local attention without tensor cores is launched (plain_*.cuh): whatever the operator allows. Plain host C++.
//
// A plan fills in launches and returns nullptr, or returns a sentence that says why the kernels do not serve the call.
#pragma once
#include "launch.h"
#include "plan_maps.h"
#include "workspaces.h"

namespace sasa {

// Launches (LocalForward), or (LocalBackward, PlainWorkspace).
struct PlainPlan {
  Launch queries, keys;  // forward: `queries` alone
  int64_t parts = 0;     // of PlainWorkspace's rows and columns, to be added up by plan_sum_parts; 0 without tables
  int64_t delta_elements = 0;  // of PlainWorkspace's delta
};

namespace plain {

constexpr int kThreads = 128;
constexpr int64_t kMostBlocks = 0x7fffffff;

static inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a kernel's registers hold a call: lanes of a group and pixels of it, see plain_group.cuh.
struct Tuning {
  int lanes, rows;
  bool planar;
};

// `depth` channels of a lane and `rows` pixels of a group are what the kernel was compiled without spills for.
static inline Tuning tune(const LocalShape& shape, const Map& query, int64_t depth, int rows) {
  const int64_t channels = shape.head_dim > shape.value_dim ? shape.head_dim : shape.value_dim;
  Tuning tuning{1, rows, query.stride[1] != 1 && shape.heads <= 65535};
  while (tuning.lanes < 32 && ceil_divide(channels, tuning.lanes) > depth) tuning.lanes *= 2;
  if (ceil_divide(channels, tuning.lanes) > depth || shape.window > 11) tuning.rows = 1;
  return tuning;
}

// How many neighbouring channels a lane loads at once, where `mine` of them are its own.
static inline int vector(int64_t channels, int lanes, size_t bytes, size_t alignment) {
  if (channels < lanes || channels % lanes != 0) return 1;
  const int64_t mine = channels / lanes;
  int vector = 1;
  while (vector * 2 * bytes <= alignment && mine % (vector * 2) == 0) vector *= 2;
  return vector;
}

struct Alignments {
  size_t queries, values, tables;  // bytes
};

static inline Launch launch(const LocalShape& shape, const Tuning& tuning, const Alignments& alignments) {
  const size_t element = element_bytes(shape.storage), compute = compute_bytes(shape.storage);
  const int64_t half = shape.head_dim / 2;  // a lane loads embeddings of one half of the head's channels
  Launch launch;
  launch.threads = kThreads;
  launch.define("SASA_STORAGE", static_cast<int>(shape.storage));
  launch.define("SASA_K", static_cast<int>(shape.window));
  launch.define("SASA_D", static_cast<int>(shape.head_dim));
  launch.define("SASA_E", static_cast<int>(shape.value_dim));
  launch.define("SASA_LANES", tuning.lanes);
  launch.define("SASA_ROWS", tuning.rows);
  launch.define("SASA_PLANAR", tuning.planar);
  launch.define("SASA_VECTOR_D", vector(shape.head_dim, tuning.lanes, element, alignments.queries));
  launch.define("SASA_VECTOR_E", vector(shape.value_dim, tuning.lanes, element, alignments.values));
  launch.define("SASA_VECTOR_TABLE", tuning.lanes == 1
                                         ? vector(half, 1, compute, alignments.tables)
                                         : vector(shape.head_dim, tuning.lanes, compute, alignments.tables));
  return launch;
}

static inline int64_t tiles_of_image(const LocalShape& shape, const Tuning& tuning, int64_t pool) {
  const int64_t heads = tuning.planar ? 1 : shape.heads, groups = kThreads / tuning.lanes;
  return ceil_divide(ceil_divide(shape.width, pool) * ceil_divide(shape.height, tuning.rows) * heads, groups);
}

// The kernels count pixels and heads of an image, and blocks, in 32 bits.
static inline const char* refusal(const LocalShape& shape, int64_t tiles_of_image) {
  if (tiles_of_image > kMostBlocks / kThreads) return "an image has more than 2**31 pixels and heads";
  if (shape.batch * tiles_of_image > kMostBlocks) return "the launch would have more than 2**31 blocks";
  if (shape.window > 4095) return "the window is larger than 4095";
  return nullptr;
}

// Blocks that make parts of the tables' gradients: a number that depends on the shape alone, so that sums do too.
static inline int64_t parts(const LocalShape& shape, int64_t tiles) {
  const int64_t bytes = shape.heads * shape.window * shape.head_dim * int64_t(compute_bytes(shape.storage));
  int64_t most = (int64_t{32} << 20) / (bytes + 1);
  most = most < 64 ? 64 : most > 4096 ? 4096 : most;
  return tiles < most ? tiles : most;
}

}  // namespace plain

static inline const char* plan_plain_forward(const LocalForward& call, PlainPlan& plan) {
  using namespace plain;
  const LocalShape& shape = call.shape;
  const size_t element = element_bytes(shape.storage);
  const bool wide = shape.storage == Storage::float64;
  Tuning tuning = tune(shape, call.query, wide ? 4 : 8, shape.window > 7 || wide ? 2 : 4);
  if (tuning.rows % call.pool != 0) tuning.rows = static_cast<int>(call.pool);
  const int64_t tiles = tiles_of_image(shape, tuning, call.pool);
  plan = PlainPlan();
  plan.queries = launch(shape, tuning,
                        {alignment({call.query, call.key}, element), alignment({call.value, call.output}, element),
                         alignment_of({call.rel_row, call.rel_col})});
  plan.queries.source = "plain_forward.cuh", plan.queries.kernel = "sasa_plain_forward";
  plan.queries.define("SASA_POOL", static_cast<int>(call.pool));
  plan.queries.grid[0] = static_cast<unsigned>(shape.batch * tiles);
  plan.queries.grid[1] = tuning.planar ? static_cast<unsigned>(shape.heads) : 1;
  return refusal(shape, tiles);
}

static inline const char* plan_plain_backward(const LocalBackward& call, size_t shared_limit, PlainPlan& plan) {
  using namespace plain;
  const LocalShape& shape = call.shape;
  const size_t element = element_bytes(shape.storage);
  const Tuning tuning = tune(shape, call.query, shape.storage == Storage::float64 ? 4 : 8, 2);
  const Alignments alignments = {alignment({call.query, call.key, call.grad_query, call.grad_key}, element),
                                 alignment({call.value, call.grad_output, call.grad_value}, element),
                                 alignment_of({call.rel_row, call.rel_col})};
  const int64_t of_image = tiles_of_image(shape, tuning, 1), tiles = shape.batch * of_image;
  const unsigned heads = tuning.planar ? static_cast<unsigned>(shape.heads) : 1;
  plan = PlainPlan();
  plan.delta_elements = shape.batch * shape.heads * shape.height * shape.width;
  plan.parts = call.rel_row == nullptr ? 0 : parts(shape, tiles);
  plan.queries = launch(shape, tuning, alignments);
  plan.queries.source = "plain_queries.cuh", plan.queries.kernel = "sasa_plain_queries";
  plan.queries.grid[0] = static_cast<unsigned>(plan.parts > 0 ? plan.parts : tiles);
  plan.queries.grid[1] = heads;
  if (plan.parts > 0) {
    const int64_t record = (2 * shape.window + shape.head_dim) * int64_t(compute_bytes(shape.storage));
    plan.queries.shared = static_cast<size_t>(kThreads / tuning.lanes * tuning.rows * record);
  }
  plan.keys = launch(shape, tuning, alignments);
  plan.keys.source = "plain_keys.cuh", plan.keys.kernel = "sasa_plain_keys";
  plan.keys.grid[0] = static_cast<unsigned>(tiles);
  plan.keys.grid[1] = heads;
  if (plan.queries.shared > shared_limit) return "the window and the heads need more shared memory than this GPU has";
  return refusal(shape, of_image);
}

// The sum of parts, of float or double: a launch (SumParts).
static inline Launch plan_sum_parts(int64_t count, bool of_double) {
  Launch launch;
  launch.source = "sum_parts.cuh", launch.kernel = "sasa_sum_parts";
  launch.threads = 1024;
  launch.shared = 1024 * sizeof(double);
  launch.define("SASA_DOUBLE", of_double);
  launch.grid[0] = static_cast<unsigned>(plain::ceil_divide(count, 32));
  return launch;
}

}  // namespace sasa
