// Planar rows: the format to which the kernels convert maps of any memory layout and storage type.
//
// A planar row holds the channels of one head one after the other, `step` elements apart. Each channel has `pad` zeros
// (at least half a window), the pixels of the row, and zeros up to a full vector; then comes the pad of the next
// channel. So a window can be read at any pixel, and keys and values outside the map are the zero vectors that
// padding="zeros" needs.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace {

using sasa::Map;
using sasa::Storage;

SASA_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct RowLayout {
  int64_t pad;   // elements before the first pixel, a multiple of 16
  int64_t step;  // elements between channels
  RowLayout(int64_t width, int64_t half) : pad(round_up(half, 16)), step(pad + round_up(width, 16)) {}
  // Elements of a row, including the pad behind its last channel.
  int64_t row(int64_t channels) const { return channels * step + pad; }
};

// The address of channel `c` of pixel (y, 0) of image `b`.
template <class S>
SASA_INLINE S* row_of(const Map& map, int64_t b, int64_t c, int64_t y) {
  return static_cast<S*>(map.data) + b * map.stride[0] + c * map.stride[1] + y * map.stride[2];
}

// Channels [channel, channel + channels) of row y of image b.
struct MapRow {
  const Map& map;
  int64_t b, channel, channels, y, width;
  template <class S>
  SASA_INLINE S* address(int64_t c) const {
    return row_of<S>(map, b, channel + c, y);
  }
};

#if defined(__AVX2__)
// Eight channels of all pixels of a channels_last map, where they are adjacent in memory.
template <class S>
SASA_INLINE void pack_eight(const S* from, int64_t pixel, int64_t width, float* to, int64_t step, __m256 factor) {
  int64_t x = 0;
  __m256 m[8];
  for (; x + 8 <= width; x += 8) {
    for (int i = 0; i < 8; ++i) {
      m[i] = load8(from + (x + i) * pixel);
      _mm_prefetch(reinterpret_cast<const char*>(from + (x + i + 2 * width) * pixel),
                   _MM_HINT_T1);  // the row after next
    }
    transpose8(m);
    for (int c = 0; c < 8; ++c) _mm256_storeu_ps(to + c * step + x, _mm256_mul_ps(m[c], factor));
  }
  if (x == width) return;
  for (int i = 0; i < 8; ++i) m[i] = x + i < width ? load8(from + (x + i) * pixel) : _mm256_setzero_ps();
  transpose8(m);
  for (int c = 0; c < 8; ++c) _mm256_storeu_ps(to + c * step + x, _mm256_mul_ps(m[c], factor));
}

template <class S>
SASA_INLINE void unpack_eight(const float* from, int64_t step, S* to, int64_t pixel, int64_t width) {
  __m256 m[8];
  for (int64_t x = 0; x < width; x += 8) {
    for (int c = 0; c < 8; ++c) m[c] = _mm256_loadu_ps(from + c * step + x);
    transpose8(m);
    if (x + 8 <= width) {
      for (int i = 0; i < 8; ++i) store8(to + (x + i) * pixel, m[i]);
    } else {
      for (int i = 0; x + i < width; ++i) store8(to + (x + i) * pixel, m[i]);
    }
  }
}
#endif

// A row of a map, times `factor`, into a planar row whose first pixel is at `to`. Leaves the zeros around the pixels as
// they are.
template <class T, class S>
void pack_row(const MapRow& row, T factor, T* to, int64_t step) {
  const int64_t width = row.width, pixel = row.map.stride[3];
  int64_t c = 0;
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    if (row.map.stride[1] == 1) {
      for (; c + 8 <= row.channels; c += 8)
        pack_eight(row.address<S>(c), pixel, width, to + c * step, step, _mm256_set1_ps(factor));
    }
  }
#endif
  for (; c < row.channels; ++c) {
    const S* from = row.address<S>(c);
    T* plane = to + c * step;
    if (pixel == 1) {
      for (int64_t x = 0; x < width; ++x) plane[x] = widen<T>(from[x]) * factor;
    } else {
      for (int64_t x = 0; x < width; ++x) plane[x] = widen<T>(from[x * pixel]) * factor;
    }
  }
}

// A planar row whose first pixel is at `from` into a row of a map.
template <class T, class S>
void unpack_row(const T* from, int64_t step, const MapRow& row) {
  const int64_t width = row.width, pixel = row.map.stride[3];
  int64_t c = 0;
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    if (row.map.stride[1] == 1) {
      for (; c + 8 <= row.channels; c += 8) unpack_eight(from + c * step, step, row.address<S>(c), pixel, width);
    }
  }
#endif
  for (; c < row.channels; ++c) {
    S* to = row.address<S>(c);
    const T* plane = from + c * step;
    if (pixel == 1) {
      for (int64_t x = 0; x < width; ++x) to[x] = narrow<S>(plane[x]);
    } else {
      for (int64_t x = 0; x < width; ++x) to[x * pixel] = narrow<S>(plane[x]);
    }
  }
}

// pack_row and unpack_row for a storage type, as function pointers: the kernels around them are compiled once for all
// storage types.
template <class T>
struct RowAccess {
  void (*pack)(const MapRow&, T factor, T* to, int64_t step);
  void (*unpack)(const T* from, int64_t step, const MapRow&);

  static RowAccess of(Storage storage) {
    if constexpr (std::is_same_v<T, double>) {
      return {pack_row<double, double>, unpack_row<double, double>};
    } else {
      if (storage == Storage::bfloat16) return {pack_row<float, bfloat16>, unpack_row<float, bfloat16>};
      if (storage == Storage::float16) return {pack_row<float, float16>, unpack_row<float, float16>};
      return {pack_row<float, float>, unpack_row<float, float>};
    }
  }
};

template <class T>
void clear(T* from, int64_t count) {
  memset(from, 0, static_cast<size_t>(count) * sizeof(T));
}

// A ring buffer of planar rows: row y of the map is in slot y % slots until row y + slots replaces it.
template <class T>
struct RowRing {
  T* memory;            // slots + 1 rows; the last is all zeros and stands for rows outside the map
  int64_t slots, size;  // rows; elements of a row
  int64_t pad;

  static int64_t elements(int64_t slots, int64_t channels, const RowLayout& layout) {
    return (slots + 1) * layout.row(channels);
  }
  RowRing(T* memory, int64_t slots, int64_t channels, const RowLayout& layout)
      : memory(memory), slots(slots), size(layout.row(channels)), pad(layout.pad) {}
  // Must precede the first row: packing writes the pixels and nothing around them.
  void clear_all() const { clear(memory, (slots + 1) * size); }
  // The first pixel of channel 0 of row y.
  SASA_INLINE T* row(int64_t y) const { return memory + (y % slots) * size + pad; }
  SASA_INLINE T* zeros() const { return memory + slots * size + pad; }
  // Point to[j] at pixel -half of row y + j of a map, for `count` rows; rows outside the map are zeros.
  void window_rows(int64_t y, int64_t count, int64_t height, int64_t half, const T** to) const {
    for (int64_t j = 0; j < count; ++j) to[j] = (y + j >= 0 && y + j < height ? row(y + j) : zeros()) - half;
  }
};

}  // namespace
