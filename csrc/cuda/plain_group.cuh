// Local attention without tensor cores: what its three kernels share.
//
// A group of SASA_LANES lanes of a warp takes SASA_ROWS pixels of one head, one above the other. Each lane holds some
// of the head's channels; a dot product is the sum over the group. In channels_last maps the lanes of a group lie side
// by side and heads follow each other; in planar maps (SASA_PLANAR) neighbouring lanes take neighbouring columns.
// Pixels one above the other share the keys of their windows, so a key is loaded once for SASA_ROWS queries.
//
// The build gives SASA_STORAGE, SASA_K the window, SASA_D and SASA_E the channels of a head, SASA_LANES, SASA_ROWS,
// SASA_PLANAR, and SASA_VECTOR_D, SASA_VECTOR_E, SASA_VECTOR_TABLE: how many neighbouring elements a lane loads at once
// from the maps of queries and keys, of values, and from the tables.
#pragma once
#include "elements.cuh"
#include "workspaces.h"

namespace sasa {

constexpr int K = SASA_K, kHalf = K / 2, D = SASA_D, E = SASA_E;
constexpr int kLanes = SASA_LANES, kRows = SASA_ROWS, kThreads = 128;
constexpr int kLaneStep = SASA_PLANAR ? 32 / kLanes : 1;  // between neighbouring lanes of a group
constexpr int kGroups = kThreads / kLanes;                // of a block
constexpr int kDepth = (D + kLanes - 1) / kLanes, kWidth = (E + kLanes - 1) / kLanes;  // channels of a lane
constexpr int kUnroll = K <= 11 ? K : 1;  // columns of the window in registers

SASA_DEVICE Compute sum_of_group(Compute x) {
#pragma unroll
  for (int lane = kLaneStep; lane < kLaneStep * kLanes; lane *= 2) x += shuffle_xor(x, lane);
  return x;
}

// What the calling thread does: pixels (y + r, x), r < kRows, of image b and head n; `lane` is its place in the group.
struct Group {
  int64_t b;
  int n, y, x, lane;
  int index;    // of the block's groups
  bool inside;  // x and y are in the map

  // Tile `tile` of the images' tiles; `heads` of the heads from first_head on share a block. `columns` and
  // `rows_of_tiles` are those of the map of groups.
  SASA_DEVICE Group(int64_t tile, int tiles_of_image, int first_head, int heads, int columns, int rows_of_tiles) {
    const int warp = threadIdx.x / 32, in_warp = threadIdx.x % 32;
    lane = SASA_PLANAR ? in_warp / kLaneStep : in_warp % kLanes;
    index = warp * (32 / kLanes) + (SASA_PLANAR ? in_warp % kLaneStep : in_warp / kLanes);
    b = tile / tiles_of_image;
    const int unit = static_cast<int>(tile % tiles_of_image) * kGroups + index, pixel = unit / heads;
    n = first_head + unit % heads;
    x = pixel % columns;
    y = pixel / columns * kRows;
    inside = pixel / columns < rows_of_tiles;
  }
};

// How groups are dealt out: planar maps have one head in a block, others all of them.
struct Tiling {
  int columns, rows, heads, tiles_of_image;
  SASA_DEVICE Tiling(const LocalShape& shape, int pool) {
    columns = static_cast<int>((shape.width + pool - 1) / pool);
    rows = static_cast<int>((shape.height + kRows - 1) / kRows);
    heads = SASA_PLANAR ? 1 : static_cast<int>(shape.heads);
    tiles_of_image = (columns * rows * heads + kGroups - 1) / kGroups;
  }
};

// The channels [first, first + N) of a pixel of a head that has CHANNELS; zeros beyond them and outside of the map.
// `pixel` points to the head's first channel. VECTOR > 1: channels lie side by side.
template <int N, int CHANNELS, int VECTOR, class T>
SASA_DEVICE void load_channels(Compute (&to)[N], const T* pixel, int64_t stride, int first, bool inside) {
  if constexpr (VECTOR > 1) {
#pragma unroll
    for (int i = 0; i < N; i += VECTOR) {
      Vector<T, VECTOR> some = {};
      if (inside) some = load_global(reinterpret_cast<const Vector<T, VECTOR>*>(pixel + first + i));
#pragma unroll
      for (int v = 0; v < VECTOR; v++) to[i + v] = to_float(some.at[v]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) {
      const bool there = inside && (CHANNELS % N == 0 || first + i < CHANNELS);
      to[i] = there ? to_float(load_global(pixel + (first + i) * stride)) : Compute(0);
    }
  }
}

template <int N, int CHANNELS, int VECTOR>
SASA_DEVICE void store_channels(const Compute (&from)[N], Element* pixel, int64_t stride, int first) {
  if constexpr (VECTOR > 1) {
#pragma unroll
    for (int i = 0; i < N; i += VECTOR) {
      Vector<Element, VECTOR> some;
#pragma unroll
      for (int v = 0; v < VECTOR; v++) some.at[v] = to_element(from[i + v]);
      store_global(reinterpret_cast<Vector<Element, VECTOR>*>(pixel + first + i), some);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (CHANNELS % N == 0 || first + i < CHANNELS) store_global(pixel + (first + i) * stride, to_element(from[i]));
    }
  }
}

// A map as a group reads and writes it: the lane's channels of head n.
template <int N, int CHANNELS, int VECTOR>
struct HeadMap {
  Element* head;
  int64_t channel, row, column;
  int first;

  SASA_DEVICE HeadMap(const Map& map, const Group& group) {
    head = const_cast<Element*>(at<Element>(map, group.b, static_cast<int64_t>(group.n) * CHANNELS, 0, 0));
    channel = map.stride[1], row = map.stride[2], column = map.stride[3];
    first = group.lane * N;
  }
  SASA_DEVICE void load(Compute (&to)[N], int y, int x, bool inside) const {
    load_channels<N, CHANNELS, VECTOR>(to, head + y * row + x * column, channel, first, inside);
  }
  SASA_DEVICE void store(const Compute (&from)[N], int y, int x) const {
    store_channels<N, CHANNELS, VECTOR>(from, head + y * row + x * column, channel, first);
  }
};
using QueryMap = HeadMap<kDepth, D, SASA_VECTOR_D>;
using ValueMap = HeadMap<kWidth, E, SASA_VECTOR_E>;

// One of the two tables of head n, as the lane's channels meet it: row embeddings belong to the first half of the
// head's channels, column embeddings to the second; the other half finds zeros.
template <bool COLUMNS>
struct Table {
  static constexpr int half = D / 2, begin = COLUMNS ? half : 0;
  const Compute* head;
  int first;  // of the lane's channels

  SASA_DEVICE Table(const void* table, const Group& group) {
    head = table == nullptr ? nullptr : static_cast<const Compute*>(table) + static_cast<int64_t>(group.n) * K * half;
    first = group.lane * kDepth;
  }
  SASA_DEVICE void load(Compute (&to)[kDepth], int offset) const {
    const Compute* row = head + offset * half;
    if constexpr (kLanes == 1) {  // this half of the lane's channels
#pragma unroll
      for (int i = 0; i < kDepth; i++) to[i] = 0;
      if (head == nullptr) return;
#pragma unroll
      for (int i = 0; i < half; i += SASA_VECTOR_TABLE) {
        const auto some = load_global(reinterpret_cast<const Vector<Compute, SASA_VECTOR_TABLE>*>(row + i));
#pragma unroll
        for (int v = 0; v < SASA_VECTOR_TABLE; v++) to[begin + i + v] = some.at[v];
      }
    } else if constexpr (SASA_VECTOR_TABLE > 1) {  // the lane's channels are of one half
      const bool mine = head != nullptr && first >= begin && first < begin + half;
      load_channels<kDepth, D, SASA_VECTOR_TABLE>(to, row, 1, first - begin, mine);
    } else {
#pragma unroll
      for (int i = 0; i < kDepth; i++) {
        const int c = first + i - begin;
        to[i] = head != nullptr && c >= 0 && c < half ? load_global(row + c) : Compute(0);
      }
    }
  }
};

using RowTable = Table<false>;
using ColumnTable = Table<true>;

SASA_DEVICE bool within(int i, int64_t size) { return i >= 0 && i < size; }

}  // namespace sasa
