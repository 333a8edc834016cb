// Eq. 3 forward on small maps. A task is one group of problems: a head of an image in each lane.
#pragma once
#include "local_forward.h"
#include "small_inputs.h"

namespace {

template <class T, int L>
class SmallForward {
 public:
  explicit SmallForward(const LocalForward& call) : call_(call), shape_(call.shape), in_(call) {
    allocate_scratch([this](Arena& arena) { lay_out(arena); });
  }

  // Returns the lanes whose inputs are not all finite; their results are not valid.
  uint32_t run(const LaneGroup& group) {
    const uint32_t nonfinite = in_.pack(group);
    if (in_.has_new_heads) load_gain_and_shift(group);
    for (int64_t y = 0; y < shape_.height; ++y) attend(group, y);
    write(group);
    return nonfinite;
  }

 private:
  void lay_out(Arena& arena) {
    in_.lay_out(arena);
    output_ = arena.take<T>(in_.pixels * shape_.value_dim * L);
    weights_ = arena.take<T>(shape_.width * in_.pixels * L);
    gain_ = arena.take<T>(shape_.value_dim * L);
    shift_ = arena.take<T>(shape_.value_dim * L);
  }

  void load_gain_and_shift(const LaneGroup& group) {
    const int64_t E = shape_.value_dim;
    for (int64_t e = 0; e < E; ++e)
      for (int lane = 0; lane < L; ++lane) {
        const int64_t channel = group.head(lane) * E + e;
        gain_[e * L + lane] = call_.gain ? static_cast<const T*>(call_.gain)[channel] : T(1);
        shift_[e * L + lane] = call_.shift ? static_cast<const T*>(call_.shift)[channel] : T(0);
      }
  }

  // The queries of row y, in blocks that share their keys.
  void attend(const LaneGroup& group, int64_t y) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, W = shape_.width, P = in_.pixels, K = in_.window;
    const Visible down(y, shape_.height, K);
    const T* query = in_.query + y * W * D * L;
    in_.relative_terms(y);
    if (!in_.has_key) clear(weights_, W * P * L);
    SmallSoftmax<T, L> softmax(K, shape_.mask, in_.softmax_scratch);
    for (int64_t x = 0; x < W; x += kQueryBlock) {
      const int64_t queries = W - x < kQueryBlock ? W - x : kQueryBlock;
      const int64_t begin = Visible(x, W, K).begin, end = Visible(x + queries - 1, W, K).end;
      for (int64_t row = down.begin; in_.has_key && row < down.end; ++row)
        product<T, L>(queries, end - begin, {1, D}, {query + x * D * L, D, 0, 1},
                      {in_.key + (row * W + begin) * D * L, D, 0, 1},
                      Store<T>{weights_ + (x * P + row * W + begin) * L, P, 1});
      for (int64_t i = x; i < x + queries; ++i) {
        const T* terms = in_.has_relative ? in_.terms + 2 * i * K * L : nullptr;
        const Vec<T, L> log2_sum = softmax.normalize(down, Visible(i, W, K), W, terms, weights_ + i * P * L);
        if (call_.logsumexp) write_logsumexp(group, y * W + i, log2_sum * static_cast<T>(kLn2));
      }
      product<T, L>(queries, E, {down.count(), end - begin}, {weights_ + (x * P + down.begin * W + begin) * L, P, W, 1},
                    {in_.value + (down.begin * W + begin) * E * L, 1, W * E, E},
                    Store<T>{output_ + (y * W + x) * E * L, E, 1});
    }
  }

  void write_logsumexp(const LaneGroup& group, int64_t pixel, Vec<T, L> values) {
    for (int64_t lane = 0; lane < group.count; ++lane)
      static_cast<T*>(call_.logsumexp)[group.problem(lane) * in_.pixels + pixel] = values[lane];
  }

  // Apply the epilogue, and write the output map.
  void write(const LaneGroup& group) {
    const int64_t E = shape_.value_dim;
    int64_t height = shape_.height, width = shape_.width;
    if (call_.pool == 2) pool(height, width), height = (height + 1) / 2, width = (width + 1) / 2;
    if (call_.gain || call_.shift || call_.relu) {
      for (int64_t i = 0; i < height * width * E; ++i) {
        T* at = output_ + i * L;
        const Vec<T, L> y = load<T, L>(at) * load<T, L>(gain_ + i % E * L) + load<T, L>(shift_ + i % E * L);
        store<T, L>(at, call_.relu ? (y < Vec<T, L>{} ? Vec<T, L>{} : y) : y);
      }
    }
    in_.io.unpack(output_, call_.output, group, E, height, width);
  }

  // In place: the mean of 2 x 2 pixels, of fewer at an odd border.
  void pool(int64_t height, int64_t width) {
    const int64_t E = shape_.value_dim;
    for (int64_t y = 0; y < height; y += 2)
      for (int64_t x = 0; x < width; x += 2) {
        const int64_t rows = height - y < 2 ? 1 : 2, columns = width - x < 2 ? 1 : 2;
        T* to = output_ + (y / 2 * ((width + 1) / 2) + x / 2) * E * L;
        for (int64_t e = 0; e < E; ++e) {
          Vec<T, L> sum = {};
          for (int64_t i = 0; i < rows * columns; ++i)
            sum += load<T, L>(output_ + (((y + i / columns) * width + x + i % columns) * E + e) * L);
          store<T, L>(to + e * L, sum * (static_cast<T>(1) / static_cast<T>(rows * columns)));
        }
      }
  }

  const LocalForward& call_;
  const LocalShape& shape_;
  SmallInputs<T, L> in_;
  T *output_, *weights_, *gain_, *shift_;
};

}  // namespace
