// Eq. 3 forward on small maps: a task takes one group of problems, a head of an image in each lane.
#pragma once
#include "local_forward.h"
#include "small_tile.h"

namespace {

template <class T, int L>
class SmallForward {
 public:
  explicit SmallForward(const LocalForward& call)
      : call_(call),
        shape_(call.shape),
        io_(LaneAccess<T, L>::of(call.shape.storage)),
        pixels_(shape_.height * shape_.width),
        window_(shape_.window) {
    Arena sizes(nullptr);
    lay_out(sizes);
    Arena arena(sasa::scratch(sizes.used()));
    lay_out(arena);
  }

  // Returns the lanes whose numbers are not all finite, of which nothing is to be believed.
  uint32_t run(const LaneGroup& group) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, H = shape_.height, W = shape_.width;
    io_.pack(call_.query, group, D, H, W, static_cast<T>(shape_.scale * kLog2e), query_);
    io_.pack(call_.value, group, E, H, W, 1, value_);
    uint32_t bad = bad_lanes<T, L>(query_, pixels_ * D) | bad_lanes<T, L>(value_, pixels_ * E);
    if (call_.key.data) {
      io_.pack(call_.key, group, D, H, W, 1, key_);
      bad |= bad_lanes<T, L>(key_, pixels_ * D);
    }
    take_parameters(group);
    if (call_.rel_row) bad |= bad_lanes<T, L>(rel_row_, D * window_);
    for (int64_t y = 0; y < H; ++y) attend(group, y);
    finish(group);
    return bad;
  }

 private:
  void lay_out(Arena& arena) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, W = shape_.width;
    query_ = arena.take<T>(pixels_ * D * L);
    key_ = arena.take<T>(call_.key.data ? pixels_ * D * L : 0);
    value_ = arena.take<T>(pixels_ * E * L);
    output_ = arena.take<T>(pixels_ * E * L);
    weights_ = arena.take<T>(W * pixels_ * L);
    terms_ = arena.take<T>(call_.rel_row ? 2 * W * window_ * L : 0);
    rel_row_ = arena.take<T>(call_.rel_row ? shape_.head_dim * window_ * L : 0);
    rel_col_ = rel_row_ + shape_.head_dim / 2 * window_ * L;
    gain_ = arena.take<T>(E * L);
    shift_ = arena.take<T>(E * L);
    scratch_ = arena.take<T>(SmallSoftmax<T, L>::elements(window_));
  }

  // Embeddings, gain and shift of the lanes' heads: again only where another head begins the group.
  void take_parameters(const LaneGroup& group) {
    if (group.head(0) == taken_) return;
    taken_ = group.count < L ? -1 : group.head(0);  // the last group's lanes may repeat a head
    const int64_t E = shape_.value_dim, half = shape_.head_dim / 2;
    if (call_.rel_row) {
      take_lanes_relative<T, L>(static_cast<const T*>(call_.rel_row), group, window_ * half, rel_row_);
      take_lanes_relative<T, L>(static_cast<const T*>(call_.rel_col), group, window_ * half, rel_col_);
    }
    for (int64_t e = 0; e < E; ++e)
      for (int lane = 0; lane < L; ++lane) {
        const int64_t channel = group.head(lane) * E + e;
        gain_[e * L + lane] = call_.gain ? static_cast<const T*>(call_.gain)[channel] : T(1);
        shift_[e * L + lane] = call_.shift ? static_cast<const T*>(call_.shift)[channel] : T(0);
      }
  }

  // The queries of row y, a few at a time that share their keys.
  void attend(const LaneGroup& group, int64_t y) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, W = shape_.width, half = D / 2;
    const Seen down(y, shape_.height, window_);
    const T* query = query_ + y * W * D * L;
    if (call_.rel_row) {
      product<T, L>(W, window_, {1, half}, {query, D, 0, 1}, {rel_row_, half, 0, 1},
                    {terms_, 2 * window_, 1, 1, false});
      product<T, L>(W, window_, {1, D - half}, {query + half * L, D, 0, 1}, {rel_col_, half, 0, 1},
                    {terms_ + window_ * L, 2 * window_, 1, 1, false});
    }
    if (!call_.key.data) clear(weights_, W * pixels_ * L);
    SmallSoftmax<T, L> softmax(window_, shape_.mask, scratch_);
    for (int64_t x = 0; x < W; x += kTogether) {
      const int64_t queries = W - x < kTogether ? W - x : kTogether;
      const int64_t begin = Seen(x, W, window_).begin, end = Seen(x + queries - 1, W, window_).end;
      for (int64_t row = down.begin; call_.key.data && row < down.end; ++row)
        product<T, L>(queries, end - begin, {1, D}, {query + x * D * L, D, 0, 1},
                      {key_ + (row * W + begin) * D * L, D, 0, 1},
                      {weights_ + (x * pixels_ + row * W + begin) * L, pixels_, 1, 1, false});
      for (int64_t i = x; i < x + queries; ++i) {
        const T* terms = call_.rel_row ? terms_ + 2 * i * window_ * L : nullptr;
        const Vec<T, L> log2_sum = softmax.weigh(down, Seen(i, W, window_), W, terms, weights_ + i * pixels_ * L);
        if (call_.logsumexp) write_logsumexp(group, y * W + i, log2_sum * static_cast<T>(kLn2));
      }
      product<T, L>(queries, E, {down.count(), end - begin},
                    {weights_ + (x * pixels_ + down.begin * W + begin) * L, pixels_, W, 1},
                    {value_ + (down.begin * W + begin) * E * L, 1, W * E, E},
                    {output_ + (y * W + x) * E * L, E, 1, 1, false});
    }
  }

  void write_logsumexp(const LaneGroup& group, int64_t pixel, Vec<T, L> values) {
    for (int64_t lane = 0; lane < group.count; ++lane)
      static_cast<T*>(call_.logsumexp)[group.problem(lane) * pixels_ + pixel] = values[lane];
  }

  // What follows attention at once, and the way to the output map.
  void finish(const LaneGroup& group) {
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
    io_.unpack(output_, call_.output, group, E, height, width);
  }

  // In place: the mean of two by two pixels, of fewer at an odd border.
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

  static constexpr int64_t kTogether = 4;  // queries

  const LocalForward& call_;
  const LocalShape& shape_;
  const LaneAccess<T, L> io_;
  const int64_t pixels_, window_;
  int64_t taken_ = -1;
  T *query_, *key_, *value_, *output_, *weights_, *terms_, *rel_row_, *rel_col_, *gain_, *shift_, *scratch_;
};

// Whether it was done this way.
template <class T>
bool small_forward(const LocalForward& call, const sasa::Parallel& threads) {
  bool done = false;
  with_small_lanes<T>(call.shape, [&](auto lanes) {
    constexpr int L = decltype(lanes)::value;
    if (!small_is_faster<T, L>(call.shape)) return;
    done = true;
    const int64_t heads = call.shape.heads, groups = (call.shape.batch * heads + L - 1) / L;
    parallel(threads, groups, [&](int64_t first, int64_t last) {
      run_small<SmallForward<T, L>, L>(call, first, last, [&](int64_t problem) {
        ForwardTask<T, 0>(call, 1).run(problem / heads, problem % heads, 0, call.shape.height);
      });
    });
  });
  return done;
}

void local_forward(const LocalForward& call, const sasa::Parallel& threads) {
  if (call.shape.storage == Storage::float64) {
    if (!small_forward<double>(call, threads)) local_forward_as<double>(call, threads);
  } else {
    if (!small_forward<float>(call, threads)) local_forward_as<float>(call, threads);
  }
}

}  // namespace
