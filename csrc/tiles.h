// How a map is cut into tasks and tiles, and a task's scratch memory into arrays.
#pragma once
#include "window.h"

namespace {

// Calls f with the kernel of an integral constant for the window: 3, 5, 7, 9 and 11 have code of their own.
template <class T, class F>
SASA_INLINE void with_window(int64_t window, F&& f) {
  if constexpr (std::is_same_v<T, float>) {
    switch (window) {
      case 3: return f(Int<3>{});
      case 5: return f(Int<5>{});
      case 7: return f(Int<7>{});
      case 9: return f(Int<9>{});
      case 11: return f(Int<11>{});
      default: break;
    }
  }
  f(Int<0>{});
}

// Rows of the next tile: never one where two tiles of two fit, since a row alone reads every key for itself.
template <int K>
SASA_INLINE int64_t tile_rows(int64_t left, int64_t window) {
  if (window == 1 || left == 1) return 1;
  if (kRows<K> == 3 && left != 4 && left >= 3) return 3;
  return 2;
}

// Calls f(x, lanes, rows) for each tile of `rows` rows across a map: whole vectors, and half a one where it suffices.
template <class T, int K, class F>
SASA_INLINE void across(int64_t width, int64_t rows, F&& f) {
  constexpr int L = kLanes<T>;
  auto with_rows = [&](int64_t x, auto lanes) __attribute__((always_inline)) {
    if constexpr (kRows<K> == 3) {
      if (rows == 3) return f(x, lanes, Int<3>{});
    }
    if (rows == 2) return f(x, lanes, Int<2>{});
    f(x, lanes, Int<1>{});
  };
  for (int64_t x = 0; x < width; x += L) {
    if constexpr (kBytes == 64 && std::is_same_v<T, float>) {
      if (width - x <= L / 2) {
        with_rows(x, Int<L / 2>{});
        return;
      }
    }
    with_rows(x, Int<L>{});
  }
}

// Hands out arrays of a task's scratch memory; first asked for nothing, to count.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(int64_t count) {
    T* array = reinterpret_cast<T*>(memory_ + used_);
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return array;
  }
  size_t used() const { return static_cast<size_t>(used_); }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// Runs f(first, end) over [0, count) on all threads.
template <class F>
void parallel(const sasa::Parallel& threads, int64_t count, F&& f) {
  using Function = std::remove_reference_t<F>;
  threads.run(
      threads, count, [](void* f, int64_t begin, int64_t end) { (*static_cast<Function*>(f))(begin, end); }, &f);
}

// Heads that a task takes together: those that share a cache line of a channels_last map, so that each line is
// fetched once. With few pictures rather more tasks than that.
inline int64_t heads_together(int64_t batch, int64_t heads, int64_t head_bytes, int threads) {
  int64_t together = head_bytes >= 64 ? 1 : 64 / head_bytes;
  while (together > 1 && (heads % together != 0 || batch * (heads / together) < 2 * threads)) --together;
  return together;
}

// Rows of a strip, even: the whole map where there are tasks enough, else less, but never so little that the rows
// above and below, which are read for each strip again, outweigh it.
inline int64_t strip_rows(int64_t tasks, int64_t height, int64_t window, int threads) {
  const int64_t wanted = tasks >= 2 * threads ? 1 : (2 * threads + tasks - 1) / (tasks > 0 ? tasks : 1);
  const int64_t rows = round_up((height + wanted - 1) / wanted, 6);
  return rows < 2 * window ? round_up(2 * window, 6) : rows;
}

// (offsets, channels) to (channels, offsets).
template <class T>
void transpose_relative(const T* from, int64_t offsets, int64_t channels, T* to) {
  for (int64_t o = 0; o < offsets; ++o)
    for (int64_t d = 0; d < channels; ++d) to[d * offsets + o] = from[o * channels + d];
}

constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;

}  // namespace
