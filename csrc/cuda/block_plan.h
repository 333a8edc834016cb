// How block attention, the stem's, is launched (block_*.cuh). Plain host C++; a plan fills in launches and returns
// nullptr, or returns a sentence that says why the kernels do not serve the call.
#pragma once
#include "block_layout.h"
#include "launch.h"
#include "plain_plan.h"
#include "plan_maps.h"
#include "workspaces.h"

namespace sasa {

// Launches, in this order: `fold` and `attend` take (BlockForward or BlockBackward, BlockWorkspace). Where there are
// parts, `sum` takes SumParts of them: of BlockWorkspace's sums, into the sums of the call, or of its grads, into its
// total. Backward, `unfold` then makes the gradients of the weights from `total`, one of each and not one of each
// strip.
struct BlockPlan {
  Launch fold, attend, sum, unfold;
  int64_t folded_elements = 0;      // of BlockWorkspace, compute type
  int64_t parts = 0, elements = 0;  // of its sums (double) or grads (compute type): (parts, elements)
};

namespace block {

constexpr int kThreads = 128;  // of all kernels but those of blocks of more pixels

// Thread blocks that make parts: a number that depends on the shape alone, so that sums do too.
static inline int64_t parts(int64_t tiles, int64_t bytes) {
  int64_t most = (int64_t{32} << 20) / (bytes + 1);
  most = most < 64 ? 64 : most > 2048 ? 2048 : most;
  return tiles < most ? tiles : most;
}

static inline Launch for_each(int64_t elements, const char* kernel, Storage storage) {
  Launch launch;
  launch.source = "block_fold.cuh", launch.kernel = kernel;
  launch.threads = kThreads;
  launch.define("SASA_STORAGE", static_cast<int>(storage));
  launch.grid[0] = static_cast<unsigned>(plain::ceil_divide(elements, kThreads));
  return launch;
}

static inline BlockLayout layout(const BlockShape& shape) {
  return {static_cast<int>(shape.block), static_cast<int>(shape.channels),
          static_cast<int>(shape.value_dim < 16 ? shape.value_dim : 16),
          shape.block * shape.block > kThreads ? 256 : kThreads};
}

static inline int64_t blocks_of(const BlockShape& shape) {
  return shape.batch * plain::ceil_divide(shape.height, shape.block) * plain::ceil_divide(shape.width, shape.block);
}

// The kernels of block_threads.cuh.
static inline Launch any_block(const BlockShape& shape, bool content) {
  const BlockLayout layout = block::layout(shape);
  Launch launch;
  launch.threads = static_cast<unsigned>(layout.threads);
  launch.shared = layout.end() * compute_bytes(shape.storage);
  launch.define("SASA_STORAGE", static_cast<int>(shape.storage));
  launch.define("SASA_S", layout.block);
  launch.define("SASA_C", layout.channels);
  launch.define("SASA_E", static_cast<int>(shape.value_dim));
  launch.define("SASA_CONTENT", content);
  launch.define("SASA_CHUNK", layout.chunk);
  launch.define("SASA_THREADS", layout.threads);
  return launch;
}

// The kernels of block_tensor_tile.cuh serve the stem of a ResNet, pooled, where no gradient of the image is wanted.
static inline bool on_tensor_cores(const BlockShape& shape, const void* w_value) {
  const bool short_numbers = shape.storage == Storage::bfloat16 || shape.storage == Storage::float16;
  return short_numbers && shape.block == 4 && shape.value_dim == 16 && shape.channels <= 4 && w_value != nullptr &&
         shape.height < 1 << 24 && shape.width < 1 << 24 && blocks_of(shape) < 1 << 30;
}

// Thread blocks of a launch: a multiple of what the GPUs of 132 multiprocessors hold at once.
constexpr int64_t kTensorBlocks = 12 * 132;

static inline Launch tensor_block(const BlockShape& shape, bool content) {
  const int64_t across = plain::ceil_divide(shape.width, 4), strips = plain::ceil_divide(across, 64);
  const int columns = static_cast<int>(plain::ceil_divide(across, strips));
  const int heads = static_cast<int>(shape.heads < 8 ? shape.heads : 8);
  const int64_t count = shape.batch * plain::ceil_divide(shape.height, 4) * plain::ceil_divide(across, columns);
  Launch launch;
  launch.threads = static_cast<unsigned>(32 * heads);
  launch.shared = static_cast<size_t>(tensor_strip_bytes(columns, heads)) +
                  static_cast<size_t>(heads * tensor_weight_bytes(static_cast<int>(shape.channels)));
  launch.define("SASA_STORAGE", static_cast<int>(shape.storage));
  launch.define("SASA_C", static_cast<int>(shape.channels));
  launch.define("SASA_COLUMNS", columns);
  launch.define("SASA_HEADS", heads);
  launch.define("SASA_CONTENT", content);
  launch.grid[0] = static_cast<unsigned>(count < kTensorBlocks ? count : kTensorBlocks);
  launch.grid[1] = static_cast<unsigned>(plain::ceil_divide(shape.heads, heads));
  return launch;
}

static inline const char* refusal(const BlockShape& shape) {
  if (shape.block > 16) return "a block has more than 16 x 16 pixels";
  if (shape.channels > 4096) return "the image has more than 4096 channels";
  return nullptr;
}

}  // namespace block

// `tensor_cores`: whether the GPU has those that the kernels are written for (sm_80 and later).
static inline const char* plan_block_forward(const BlockForward& call, size_t shared_limit, BlockPlan& plan,
                                             bool tensor_cores = true) {
  const BlockShape& shape = call.shape;
  const char* refusal = block::refusal(shape);
  if (refusal != nullptr) return refusal;
  const BlockLayout layout = block::layout(shape);
  const int64_t tiles = plain::ceil_divide(block::blocks_of(shape), layout.blocks());
  const unsigned bytes = static_cast<unsigned>(compute_bytes(shape.storage));
  plan = BlockPlan();
  plan.folded_elements = shape.heads * folded_elements(shape);
  plan.fold = block::for_each(plan.folded_elements, "sasa_block_fold", shape.storage);
  plan.attend = block::any_block(shape, call.w_key != nullptr);
  plan.attend.source = "block_forward.cuh", plan.attend.kernel = "sasa_block_forward";
  plan.attend.shared = layout.totals_offset(bytes);
  if (call.sums != nullptr) {
    plan.elements = 2 * shape.heads * shape.value_dim;
    plan.parts = block::parts(tiles, plan.elements * 8);
    plan.sum = plan_sum_parts(plan.elements, true);
    plan.attend.shared += static_cast<size_t>(plan.elements) * 8;
  }
  const bool pooled_only = call.output.data == nullptr && call.logsumexp == nullptr && call.extreme.data != nullptr;
  if (tensor_cores && pooled_only && block::on_tensor_cores(shape, call.w_value)) {
    plan.attend = block::tensor_block(shape, call.w_key != nullptr);
    plan.attend.source = "block_tensor_forward.cuh", plan.attend.kernel = "sasa_block_tensor_forward";
    if (plan.parts > 0) plan.parts = plan.attend.grid[0];
    return nullptr;
  }
  plan.attend.grid[0] = static_cast<unsigned>(plan.parts > 0 ? plan.parts : tiles < 65536 ? tiles : 65536);
  return plan.attend.shared > shared_limit ? "the block and its channels need more shared memory than this GPU has"
                                           : nullptr;
}

static inline const char* plan_block_backward(const BlockBackward& call, size_t shared_limit, BlockPlan& plan,
                                              bool tensor_cores = true) {
  const BlockShape& shape = call.shape;
  const char* refusal = block::refusal(shape);
  if (refusal != nullptr) return refusal;
  const bool values = call.w_value != nullptr;
  const int64_t tiles = plain::ceil_divide(block::blocks_of(shape), block::layout(shape).blocks());
  const int64_t P = shape.block * shape.block, N = shape.heads, C = shape.channels;
  plan = BlockPlan();
  plan.folded_elements = N * folded_elements(shape);
  plan.fold = block::for_each(plan.folded_elements, "sasa_block_fold_backward", shape.storage);
  plan.elements = N * gradient_elements(shape, values);
  plan.parts = block::parts(tiles, plan.elements * int64_t(compute_bytes(shape.storage)));
  plan.attend = block::any_block(shape, call.w_key != nullptr);
  plan.attend.source = "block_backward.cuh", plan.attend.kernel = "sasa_block_backward";
  const bool pooled_only = call.grad_output.data == nullptr && call.grad_image.data == nullptr;
  if (tensor_cores && pooled_only && block::on_tensor_cores(shape, call.w_value)) {
    plan.attend = block::tensor_block(shape, call.w_key != nullptr);
    plan.attend.source = "block_tensor_backward.cuh", plan.attend.kernel = "sasa_block_tensor_backward";
    plan.parts = plan.attend.grid[0];
  }
  plan.attend.grid[0] = static_cast<unsigned>(plan.parts);
  plan.sum = plan_sum_parts(plan.elements, shape.storage == Storage::float64);
  int64_t largest = N * shape.head_dim * (C > 2 * shape.block ? C : 2 * shape.block);
  if (values && P * N * shape.value_dim * C > largest) largest = P * N * shape.value_dim * C;
  plan.unfold = block::for_each(largest, "sasa_block_unfold", shape.storage);
  return plan.attend.shared > shared_limit ? "the block and its channels need more shared memory than this GPU has"
                                           : nullptr;
}

}  // namespace sasa
