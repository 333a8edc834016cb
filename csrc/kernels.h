// The interface of the kernels, on raw pointers: no torch, no allocation of results, no exceptions.
//
// CPU: one table of functions per instruction set. `kernels()` returns the best that this machine supports, or the one
// that the environment variable SASA_CPU names (avx512, avx2, neon, portable).
//
// Notation: B batch, N heads, D query and key channels of a head, E value channels of a head, K the window, H x W the
// map.
//
// The CUDA kernels of csrc/cuda take the same structs by value, so this header also compiles with NVRTC, which has no
// standard headers.
#pragma once
#ifdef __CUDACC_RTC__
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned;
using int64_t = long;  // 64 bits on Linux, where CUDA runs
using uint64_t = unsigned long;
using uintptr_t = unsigned long;
#else
#include <cstddef>
#include <cstdint>
#endif

namespace sasa {

enum class Storage : int { float32, float64, bfloat16, float16 };

// A (B, C, H, W) map in any memory layout. Strides are in elements, in that order. data == nullptr: not given.
struct Map {
  void* data;
  int64_t stride[4];
};

// Runs task(context, begin, end) on pieces of [0, count), in any order, on any threads.
struct Parallel {
  void (*run)(const Parallel&, int64_t count, void (*task)(void*, int64_t, int64_t), void* context);
  int threads;
};

struct LocalShape {
  int64_t batch, heads, head_dim, value_dim, height, width, window;
  bool mask;     // padding="mask"
  double scale;  // of the logits
  Storage storage;
};

// Eq. 3. The compute type is double for float64 storage, else float.
struct LocalForward {
  LocalShape shape;
  Map query, key, value;  // key not given: no q.k
  const void* rel_row;    // (N, K, D / 2), compute type; nullptr: no q.r
  const void* rel_col;
  Map output;       // (B, N * E, ceil(H / pool), ceil(W / pool))
  void* logsumexp;  // (B, N, H, W), compute type; nullptr: not computed
  // The fused epilogue of inference: the mean of pool x pool pixels (of fewer at an odd border), then gain * y + shift,
  // then ReLU.
  int64_t pool;       // 1 or 2
  const void* gain;   // (N * E,), compute type, or nullptr
  const void* shift;  // the same
  bool relu;
};

struct LocalBackward {
  LocalShape shape;
  Map grad_output, query, key, value;
  const void* rel_row;
  const void* rel_col;
  const void* logsumexp;
  Map grad_query, grad_key, grad_value;
  void* grad_row;  // (B, N, K, D / 2), compute type: one gradient for each image; the caller adds them
  void* grad_col;
};

// Attention inside blocks, Eq. 7-8 with relative positions. P = block * block positions of a block.
struct BlockShape {
  int64_t batch, channels, height, width, heads, head_dim, value_dim, block;
  double scale;
  Storage storage;
};

// Sums over pixels are made of one part for each strip of an image, so they do not depend on the number of threads.
constexpr int64_t kStripBlocks = 8;  // rows of blocks
static inline int64_t block_strips(const BlockShape& shape) {
  return (shape.height + shape.block * kStripBlocks - 1) / (shape.block * kStripBlocks);
}

struct BlockForward {
  BlockShape shape;
  Map image;            // (B, C, H, W)
  const void* w_query;  // (N * D, C), compute type
  const void* w_key;    // the same, or nullptr: no q.k
  const void* w_value;  // (P, N * E, C), compute type, or nullptr: `value` is given
  const void* rel_row;  // (N, 2 * block - 1, D / 2), compute type, or nullptr
  const void* rel_col;
  Map value;        // (B, N * E, H, W) if w_value is not given
  Map output;       // (B, N * E, H, W), or not given: only the pooled results are computed
  void* logsumexp;  // (B, N, H, W), compute type, or nullptr
  // Max pooling over each block, and the sums that a batch norm before it needs.
  Map extreme;       // (B, N * E, ceil(H / block), ceil(W / block)), or not given
  Map position;      // the same, uint8: the position of the extreme in the block, row * block + column
  const void* sign;  // (N * E,), compute type: the extreme of a channel is the maximum where >= 0, else the minimum
  double* sums;      // (B * strips, 2, N * E): sums of y and of y * y over the pixels of each strip, or nullptr
};

struct BlockBackward {
  BlockShape shape;
  Map image;
  const void* w_query;
  const void* w_key;
  const void* w_value;
  const void* rel_row;
  const void* rel_col;
  Map value;
  Map grad_output;  // (B, N * E, H, W), or not given: then the gradients of the pooled results are
  Map grad_extreme, position;
  const double* grad_sums;  // (2, N * E): of the sum of y, and of the sum of y * y, over all images
  Map grad_image;           // or not given: not computed
  Map grad_value;           // if `value` is given
  // One gradient for each strip, compute type; the caller adds them. nullptr where the input is.
  void* grad_w_query;  // (B * strips, N * D, C)
  void* grad_w_key;
  void* grad_w_value;  // (B * strips, P, N * E, C)
  void* grad_row;      // (B * strips, N, 2 * block - 1, D / 2)
  void* grad_col;
};

// x * gain + shift for each channel, plus another map, then ReLU, in place. The map is dense, (outer, C, inner):
// (B * H * W, C, 1) if it is channels_last, else (B, C, H * W).
struct Affine {
  void* x;
  const void* residual;  // in the layout of x, or nullptr
  const void* gain;      // (C,), compute type
  const void* shift;
  int64_t outer, channels, inner;
  bool relu;
  Storage storage;
};

// Batch norm in training, shortcut and ReLU, on dense channels_last float32 maps of B * H * W = `pixels`.
static inline int64_t norm_chunk_pixels(int64_t channels) { return channels < 16384 ? 32768 / channels : 2; }
static inline int64_t norm_chunks(int64_t pixels, int64_t channels) {
  return (pixels + norm_chunk_pixels(channels) - 1) / norm_chunk_pixels(channels);
}
// The size of `parts` in floats: two for each chunk and channel, and four for each channel.
static inline int64_t norm_parts(int64_t pixels, int64_t channels) {
  return (norm_chunks(pixels, channels) * 2 + 4) * channels;
}

struct NormForward {
  const float* x;              // (pixels, C), as all maps here
  const float* residual;       // or nullptr
  const float *weight, *bias;  // (C,)
  float* y;
  float *mean, *variance;  // (C,) of the batch; the variance is the biased one
  float* parts;
  int64_t pixels, channels;
  double eps;
  bool relu;
};

struct NormBackward {
  const float *grad, *x;
  const float* y;  // if there was a residual, else nullptr
  const float *weight, *bias, *mean, *variance;
  float* grad_x;
  float* grad_residual;  // if there was a residual and a ReLU, else nullptr
  float *grad_weight, *grad_bias;
  float* parts;
  int64_t pixels, channels;
  double eps;
  bool relu;
};

// The gradient of the weights of a 1 x 1 convolution of dense channels_last float32 maps: grad^T x, over all pixels. The
// pixels are divided into parts, by their number alone, so that no sum depends on the number of threads.
static inline int64_t pointwise_parts(int64_t pixels) {
  const int64_t parts = (pixels + 2047) / 2048;
  return parts < 1 ? 1 : parts < 8 ? parts : 8;
}

struct PointwiseGradient {
  const float *grad, *x;  // (pixels, O), (pixels, I)
  float* parts;           // (parts, O, I); the caller adds them
  int64_t pixels, out_channels, in_channels;
};

// The functions of one instruction set.
struct Kernels {
  const char* name;
  void (*local_forward)(const LocalForward&, const Parallel&);
  void (*local_backward)(const LocalBackward&, const Parallel&);
  void (*block_forward)(const BlockForward&, const Parallel&);
  void (*block_backward)(const BlockBackward&, const Parallel&);
  void (*affine)(const Affine&, const Parallel&);
  void (*norm_forward)(const NormForward&, const Parallel&);
  void (*norm_backward)(const NormBackward&, const Parallel&);
  void (*pointwise_gradient)(const PointwiseGradient&, const Parallel&);
  double (*multiply_adds)(int64_t rounds);  // does fused multiply-adds, as fast as possible; returns how many
};

// The table in use. `kernels_error` is a sentence if SASA_CPU names an instruction set that is unknown or not supported
// here, else null.
const Kernels& kernels();
const char* kernels_error();

// Scratch memory of the calling thread, 64-byte aligned, not cleared, valid until the next call on that thread.
void* scratch(size_t bytes);

}  // namespace sasa
