// Which launches compute local attention on tensor cores: plain host C++, no CUDA.
//
// A plan fills in launches and returns nullptr, or returns a sentence that says why tensor cores do not serve the call;
// then the plain kernels do.
#pragma once
#include "../kernels.h"
#include "launch.h"
#include "local_layout.h"
#include "local_tiling.h"

namespace sasa {

// Blocks that should fit on a multiprocessor by their shared memory; registers rarely allow more than four.
constexpr int kResidentBlocks = 3;
// Blocks that fill a large GPU a few times over, and the most tiles of one.
constexpr int64_t kBlocksAim = 1024, kMostTiles = 32;

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether pixels can be copied 16 bytes at a time. A map of one row or column needs such strides too: cp.async takes
// aligned addresses also for pixels beyond the map, of which it reads nothing.
static inline bool has_chunks(const Map& map, const LocalShape& shape) {
  const int64_t* stride = map.stride;
  const bool images = shape.batch == 1 || stride[0] % 8 == 0;
  return reinterpret_cast<uintptr_t>(map.data) % 16 == 0 && images && stride[1] == 1 && stride[2] % 8 == 0 &&
         stride[3] % 8 == 0;
}

// Why tensor cores cannot serve this shape, or nullptr.
static inline const char* local_refusal(const LocalShape& shape) {
  if (shape.storage != Storage::bfloat16 && shape.storage != Storage::float16) {
    return "tensor cores need bfloat16 or float16";
  }
  if (shape.window < 3 || shape.window > 11 || shape.window % 2 == 0) return "tensor cores serve windows of 3 to 11";
  const int64_t d = shape.head_dim;
  if (d != 8 && d != 16 && d != 32 && d != 64 && d != 128) {
    return "tensor cores serve heads of 8, 16, 32, 64 or 128 channels";
  }
  if (d == 128 && shape.window > 7) return "128 channels and windows above 7 do not fit in registers";
  if (shape.value_dim != d) return "tensor cores need values as wide as the queries";
  if (shape.height > 1 << 24 || shape.width > 1 << 24) return "the map is longer than 2**24 pixels";
  return nullptr;
}

enum class LocalKernel { forward, queries, keys };

static inline int local_bytes(const LocalLayout& layout, LocalKernel kernel) {
  return kernel == LocalKernel::forward   ? layout.forward_bytes()
         : kernel == LocalKernel::queries ? layout.queries_bytes()
                                          : layout.keys_bytes();
}

// The largest tile that leaves room for several blocks, else the largest that fits; units_y 0: none fits.
static inline LocalLayout choose_layout(const LocalShape& shape, bool content, bool position, LocalKernel kernel,
                                        size_t shared_limit) {
  const int window = static_cast<int>(shape.window), d = static_cast<int>(shape.head_dim);
  const int heads = d == 8 && shape.heads % 2 == 0 ? 2 : 1;
  const int tall[4][2] = {{1, 8}, {1, 4}, {1, 2}, {1, 1}}, square[4][2] = {{2, 4}, {2, 2}, {1, 2}, {1, 1}};
  const int wide = d <= 16 && shape.width > 8 ? 0 : 1;
  const int aim = static_cast<int>(shared_limit / kResidentBlocks);
  LocalLayout best{};
  for (int i = wide; i < 4; i++) {
    const int* units = window == 7 ? tall[i] : square[i];
    LocalLayout layout{window, d, heads, units[0], units[1], 1, content, position};
    const int bytes = local_bytes(layout, kernel);
    if (static_cast<size_t>(bytes) > shared_limit) continue;
    if (best.units_y == 0 || local_bytes(best, kernel) > aim) best = layout;
    if (bytes <= aim) break;
  }
  if (best.units_y != 0 && kernel == LocalKernel::forward) {
    LocalLayout two = best;
    two.stages = 2;
    if (local_bytes(two, kernel) <= aim) best = two;
  }
  return best;
}

// Divide the tiles of each image among about `blocks` blocks in all: chunks of at most kMostTiles, smaller ones where
// there would be too few blocks.
static inline LocalTiling share_tiles(const LocalShape& shape, const LocalLayout& layout, int64_t blocks) {
  const int64_t tiles_x = ceil_div(shape.width, layout.width()), tiles_y = ceil_div(shape.height, layout.height());
  const int64_t groups = shape.heads / layout.heads, tiles = tiles_x * tiles_y;
  int64_t of_chunk = tiles * shape.batch * groups / blocks;
  of_chunk = of_chunk < 1 ? 1 : of_chunk > kMostTiles ? kMostTiles : of_chunk;
  if (of_chunk > tiles) of_chunk = tiles;
  return {static_cast<int>(tiles_x), static_cast<int>(tiles_y), static_cast<int>(groups),
          static_cast<int>(ceil_div(tiles, of_chunk)), static_cast<int>(of_chunk)};
}

static inline const char* local_launch(const LocalShape& shape, bool content, bool position, LocalKernel kernel,
                                       size_t shared_limit, int64_t blocks_aim, Launch& launch, LocalTiling& tiling) {
  const LocalLayout layout = choose_layout(shape, content, position, kernel, shared_limit);
  if (layout.units_y == 0) return "the window and the heads need more shared memory than a block of this GPU can have";
  tiling = share_tiles(shape, layout, blocks_aim);
  const int64_t blocks = shape.batch * tiling.head_groups * tiling.chunks;
  if (blocks > 0x7fffffff) return "the launch would have more than 2**31 blocks";
  launch = Launch();
  launch.define("SASA_STORAGE", static_cast<int>(shape.storage));
  launch.define("SASA_K", layout.window);
  launch.define("SASA_D", layout.head_dim);
  launch.define("SASA_HEADS", layout.heads);
  launch.define("SASA_UNITS_Y", layout.units_y);
  launch.define("SASA_UNITS_X", layout.units_x);
  launch.define("SASA_STAGES", layout.stages);
  launch.define("SASA_CONTENT", content);
  launch.define("SASA_POSITION", position);
  launch.define("SASA_MASK", shape.mask);
  launch.grid[0] = static_cast<unsigned>(blocks);
  launch.threads = static_cast<unsigned>(32 * layout.warps());
  launch.shared = static_cast<size_t>(local_bytes(layout, kernel));
  return nullptr;
}

// The forward pass, with pooling, gain, shift and ReLU fused: one launch, with parameters (LocalForward, LocalTiling).
// `shared_limit`: bytes that a block may have.
static inline const char* plan_local_forward(const LocalForward& call, size_t shared_limit, Launch& launch,
                                             LocalTiling& tiling, int64_t blocks_aim = kBlocksAim) {
  const char* refusal = local_refusal(call.shape);
  if (refusal != nullptr) return refusal;
  const bool content = call.key.data != nullptr, position = call.rel_row != nullptr;
  if (!has_chunks(call.query, call.shape) || !has_chunks(call.value, call.shape) ||
      !has_chunks(call.output, call.shape) || (content && !has_chunks(call.key, call.shape))) {
    return "tensor cores need channels_last maps with rows of whole 16 bytes";
  }
  if (call.pool != 1 && call.pool != 2) return "tensor cores pool 1 x 1 or 2 x 2 pixels";
  if ((reinterpret_cast<uintptr_t>(call.gain) | reinterpret_cast<uintptr_t>(call.shift)) % 8 != 0) {
    return "tensor cores need gain and shift in whole 8 bytes";
  }
  refusal = local_launch(call.shape, content, position, LocalKernel::forward, shared_limit, blocks_aim, launch, tiling);
  launch.source = "local_forward.cuh", launch.kernel = "sasa_local_forward";
  return refusal;
}

// The backward pass: three launches in this order, each with parameters (LocalBackward, its LocalTiling, LocalWork).
// `sums` takes the queries' tiling and has no source where there is nothing to add.
struct LocalBackwardPlan {
  Launch queries, sums, keys;
  LocalTiling queries_tiling, keys_tiling;
  size_t delta_bytes, parts_bytes;  // of LocalWork; float32
};

static inline const char* plan_local_backward(const LocalBackward& call, size_t shared_limit, LocalBackwardPlan& plan,
                                              int64_t blocks_aim = kBlocksAim) {
  const LocalShape& shape = call.shape;
  const char* refusal = local_refusal(shape);
  if (refusal != nullptr) return refusal;
  const bool content = call.key.data != nullptr, position = call.rel_row != nullptr;
  const Map* maps[7] = {&call.grad_output, &call.query, &call.value,   &call.grad_query,
                        &call.grad_value,  &call.key,   &call.grad_key};
  for (int i = 0; i < (content ? 7 : 5); i++) {
    if (!has_chunks(*maps[i], shape)) return "tensor cores need channels_last maps with rows of whole 16 bytes";
  }
  refusal = local_launch(shape, content, position, LocalKernel::queries, shared_limit, blocks_aim, plan.queries,
                         plan.queries_tiling);
  if (refusal != nullptr) return refusal;
  refusal =
      local_launch(shape, content, position, LocalKernel::keys, shared_limit, blocks_aim, plan.keys, plan.keys_tiling);
  if (refusal != nullptr) return refusal;
  plan.queries.source = "local_queries.cuh", plan.queries.kernel = "sasa_local_queries";
  plan.keys.source = "local_keys.cuh", plan.keys.kernel = "sasa_local_keys";
  const size_t rows = static_cast<size_t>(shape.batch * shape.heads);
  plan.delta_bytes = rows * static_cast<size_t>(shape.height * shape.width) * 4;
  plan.parts_bytes = 0;
  plan.sums = Launch();
  const int chunks = plan.queries_tiling.chunks;
  if (position && chunks > 1) {
    plan.parts_bytes = rows * static_cast<size_t>(chunks * shape.window * shape.head_dim) * 4;
    plan.sums.source = "local_sums.cuh", plan.sums.kernel = "sasa_local_sums";
    plan.sums.grid[0] = static_cast<unsigned>(rows), plan.sums.threads = 128;
  }
  return nullptr;
}

}  // namespace sasa
