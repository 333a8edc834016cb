// How the kernels divide their work: a map into tasks and tiles, the scratch memory of a task into arrays.
#pragma once
#include "window.h"

namespace {

constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;

// Call f(T()), where T is the type that the kernels compute in for a storage type.
template <class F>
void with_compute_type(Storage storage, F&& f) {
  if (storage == Storage::float64) return f(double());
  f(float());
}

// Call f with an integral constant: the window where there is specialised code for it (3, 5, 7, 9, 11), else 0.
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

// Rows of the next tile. Four rows are two tiles of two, not three and one: in a tile of one row each key is loaded for
// that row only.
template <int K>
SASA_INLINE int64_t tile_rows(int64_t left, int64_t window) {
  if (window == 1 || left == 1) return 1;
  if (kRows<K> == 3 && left != 4 && left >= 3) return 3;
  return 2;
}

// Call f(x, lanes) for each tile across `width` columns: whole vectors, and at the end half a vector if that suffices.
template <class T, class F>
SASA_INLINE void each_vector(int64_t width, F&& f) {
  constexpr int L = kLanes<T>;
  for (int64_t x = 0; x < width; x += L) {
    if constexpr (kVectorBytes == 64 && std::is_same_v<T, float>) {
      if (width - x <= L / 2) {
        f(x, Int<L / 2>{});
        return;
      }
    }
    f(x, Int<L>{});
  }
}

// Call f(x, lanes, rows) for each tile of `rows` rows across a map.
template <class T, int K, class F>
SASA_INLINE void each_tile(int64_t width, int64_t rows, F&& f) {
  each_vector<T>(width, [&](int64_t x, auto lanes) __attribute__((always_inline)) {
    if constexpr (kRows<K> == 3) {
      if (rows == 3) return f(x, lanes, Int<3>{});
    }
    if (rows == 2) return f(x, lanes, Int<2>{});
    f(x, lanes, Int<1>{});
  });
}

// Divides a block of memory into arrays.
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

// Divide the scratch memory of this thread into a task's arrays. `lay_out(arena)` takes them; it is called twice, first
// to count the bytes.
template <class F>
void allocate_scratch(F&& lay_out) {
  Arena counter(nullptr);
  lay_out(counter);
  Arena arena(sasa::scratch(counter.used()));
  lay_out(arena);
}

// Run f(first, end) over [0, count) on all threads.
template <class F>
void parallel(const sasa::Parallel& threads, int64_t count, F&& f) {
  using Function = std::remove_reference_t<F>;
  threads.run(
      threads, count, [](void* f, int64_t begin, int64_t end) { (*static_cast<Function*>(f))(begin, end); }, &f);
}

// Heads per task: those that share a cache line of a channels_last map, so that each line is read once; fewer if there
// would be less than two tasks per thread.
inline int64_t heads_per_task(int64_t batch, int64_t heads, int64_t head_bytes, int threads) {
  int64_t together = head_bytes >= 64 ? 1 : 64 / head_bytes;
  while (together > 1 && (heads % together != 0 || batch * (heads / together) < 2 * threads)) --together;
  return together;
}

// Rows of the strip of a task, an even number: the whole map if there are enough tasks. Otherwise less, but not so
// little that reading the rows above and below a strip again would outweigh it.
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

}  // namespace
