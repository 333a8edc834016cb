// What the three tensor-core kernels of local attention share: the block's place, copies of tiles and halos to shared
// memory, products of a warp's 16 pixels with the rows that they see, position terms.
//
// One variant a compilation: SASA_STORAGE (2 bfloat16, 3 float16, as enum Storage), SASA_K, SASA_D, SASA_HEADS,
// SASA_UNITS_Y, SASA_UNITS_X, SASA_STAGES, SASA_CONTENT, SASA_POSITION, SASA_MASK.
//
// Words: pixel m of a warp's tile is row m of an mma; it lies at (m % kTileH, m / kTileH) of the tile. Lane l is
// g = l / 4, t = l % 4 and holds rows g and g + 8 (h = 0, 1), columns 2 * t and 2 * t + 1 (e = 0, 1): [2 * h + e].
// "Seen rows" and "seen columns" count from the first pixel that the window of the tile's first pixel holds.
#pragma once
#include "device.h"
#include "kernels.h"
#include "local_layout.h"
#include "local_tiling.h"

namespace sasa {

#if SASA_STORAGE == 2
using Element = bfloat16;
#else
using Element = float16;
#endif
using Chunk = Vector<unsigned, 4>;  // 8 channels of a pixel

constexpr LocalLayout kLayout{SASA_K,       SASA_D,      SASA_HEADS,        SASA_UNITS_Y,
                              SASA_UNITS_X, SASA_STAGES, SASA_CONTENT != 0, SASA_POSITION != 0};
constexpr bool kContent = SASA_CONTENT != 0, kPosition = SASA_POSITION != 0, kMask = SASA_MASK != 0;
constexpr int K = SASA_K, R = K / 2, D = SASA_D, kHeads = SASA_HEADS, kHeadPlanes = D / 8, kPlanes = kLayout.planes();
constexpr int kTileH = kLayout.tile_height(), kTileW = kLayout.tile_width(), kUnits = kLayout.units();
constexpr int kBlockH = kLayout.height(), kBlockW = kLayout.width(), kThreads = 32 * kLayout.warps();
constexpr int kHaloH = kLayout.halo_height(), kHaloW = kLayout.halo_width();
constexpr int kHaloPlane = kLayout.halo_plane(), kTilePlane = kLayout.tile_plane();
constexpr int kColumnTiles = kLayout.column_tiles(), kOffsetTiles = kLayout.offset_tiles();
constexpr int kSteps16 = D == 8 ? 1 : D / 16;  // mma steps over the channels of a head

struct BlockPlace {
  int64_t image;
  int head, chunk, tile, last_tile;
};
SASA_DEVICE BlockPlace block_place(const LocalTiling& tiling) {
  BlockPlace place;
  unsigned block = blockIdx.x;
  place.head = block % tiling.head_groups * kHeads;
  block /= tiling.head_groups;
  place.chunk = block % tiling.chunks;
  place.image = block / tiling.chunks;
  place.tile = place.chunk * tiling.tiles_of_chunk;
  const int tiles = tiling.tiles_x * tiling.tiles_y;
  place.last_tile = place.tile + tiling.tiles_of_chunk < tiles ? place.tile + tiling.tiles_of_chunk : tiles;
  return place;
}

// A lane's place in the fragments of an mma, and its pixels in the warp's tile.
struct Lane {
  int id, g, t, matrix, row;  // matrix, row: which address it gives to ldmatrix
  int y;                      // of both of its pixels
  SASA_DEVICE Lane() {
    id = threadIdx.x & 31, g = id >> 2, t = id & 3, matrix = id >> 3, row = id & 7;
    y = g % kTileH;
  }
  SASA_DEVICE int x(int h) const { return (g + 8 * h) / kTileH; }
};

SASA_DEVICE const Element* pixel_of(const Map& map, int64_t image, int y, int x, int head) {
  return static_cast<const Element*>(map.data) + image * map.stride[0] + y * map.stride[2] + x * map.stride[3] +
         head * D;
}

// Pixel `slot` of the block's tile: unit slot / 16, row slot % 16 of its mma.
struct Pixel {
  int y, x;
};
SASA_DEVICE Pixel pixel_of_slot(int slot, int y0, int x0) {
  const int unit = slot / 16, m = slot % 16;
  return {y0 + unit / SASA_UNITS_X * kTileH + m % kTileH, x0 + unit % SASA_UNITS_X * kTileW + m / kTileH};
}

// Copies the block's heads of the tile's pixels; zeros outside the map.
SASA_DEVICE void copy_tile(unsigned to, const Map& map, int64_t image, int head, int y0, int x0, int height,
                           int width) {
  constexpr int kChunks = kUnits * 16 * kPlanes;
#pragma unroll 1
  for (int i = 0; i < (kChunks + kThreads - 1) / kThreads; i++) {
    const int chunk = threadIdx.x + i * kThreads, plane = chunk % kPlanes, slot = chunk / kPlanes;
    if (kChunks % kThreads != 0 && chunk >= kChunks) continue;
    const Pixel pixel = pixel_of_slot(slot, y0, x0);
    copy_async(to + plane * kTilePlane + slot * kChunk, pixel_of(map, image, pixel.y, pixel.x, head) + plane * 8,
               pixel.y < height && pixel.x < width);
  }
}

// Copies the block's heads of the tile and its halo. Threads keep their channels and column and go down the rows.
SASA_DEVICE void copy_halo(unsigned to, const Map& map, int64_t image, int head, int y0, int x0, int height,
                           int width) {
  constexpr int kRowChunks = kHaloW * kPlanes;
  constexpr int kRowsAtOnce = kThreads >= kRowChunks ? kThreads / kRowChunks : 1;
#pragma unroll 1
  for (int first = 0; first < kRowChunks; first += kThreads) {
    const int thread = threadIdx.x, chunk = first + thread % kRowChunks;
    if (kThreads >= kRowChunks ? thread >= kRowsAtOnce * kRowChunks : chunk >= kRowChunks) continue;
    int row = kThreads >= kRowChunks ? thread / kRowChunks : 0;
    const int plane = chunk % kPlanes, column = chunk / kPlanes, x = x0 - R + column;
    const bool column_inside = static_cast<unsigned>(x) < static_cast<unsigned>(width);
    const Element* source = pixel_of(map, image, y0 - R + row, x, head) + plane * 8;
    unsigned target = to + plane * kHaloPlane + (row * kHaloW + column) * kChunk;
#pragma unroll 1
    for (int i = 0; i < (kHaloH + kRowsAtOnce - 1) / kRowsAtOnce; i++) {
      const bool inside = column_inside && static_cast<unsigned>(y0 - R + row) < static_cast<unsigned>(height);
      if (row < kHaloH) copy_async(target, source, inside);
      row += kRowsAtOnce, source += kRowsAtOnce * map.stride[2], target += kRowsAtOnce * kHaloW * kChunk;
    }
  }
}

// Fragments of 16 pixels x D channels, as the A operand of an mma.
struct Fragments {
  unsigned at[kSteps16][4];
};
SASA_DEVICE void load_fragments(Fragments& fragments, unsigned planes, int unit, const Lane& lane) {
  if constexpr (D == 8) {
    unsigned r[2];
    load_matrix(r, planes + (unit * 16 + lane.id % 16) * kChunk);
    fragments.at[0][0] = r[0], fragments.at[0][1] = r[1], fragments.at[0][2] = fragments.at[0][3] = 0;
  } else {
    const unsigned address = planes + (lane.matrix >> 1) * kTilePlane + (unit * 16 + lane.id % 16) * kChunk;
#pragma unroll
    for (int s = 0; s < kSteps16; s++) load_matrix(fragments.at[s], address + 2 * s * kTilePlane);
  }
}

// The 16 pixels of a unit see kRows rows of kColumnTiles x 8 columns, two n-tiles a step. Of rows r and r + K exactly
// one lies in the window of a pixel: row r where the pixel's y is at most r. Such rows go together, and the n-tile that
// counts is chosen; so a thread keeps K rows in place of kRows.
constexpr int kRows = kLayout.window_rows(), kPaired = kTileH - 1;
constexpr int kSteps = kColumnTiles == 2 ? kRows : kRows / 2;
static_assert(kColumnTiles == 2 || kRows % 2 == 0, "n-tiles go in pairs");

struct SeenTile {
  int row, column_tile;
  SASA_DEVICE constexpr int place() const { return row % K; }            // among the K rows that are kept
  SASA_DEVICE constexpr bool is_first() const { return row < kPaired; }  // of two rows for one place
  SASA_DEVICE constexpr bool is_second() const { return row >= K; }
};
SASA_DEVICE constexpr SeenTile seen_tile(int step, int which) {
  if (kColumnTiles == 2) return {step, which};
  if (step < kPaired) return {step + which * K, 0};
  return {kPaired + 2 * (step - kPaired) + which, 0};
}
// Whether the lane's pixels see the row of the tile.
SASA_DEVICE bool sees(const SeenTile& tile, const Lane& lane) {
  if (tile.is_first()) return lane.y <= tile.row;
  if (tile.is_second()) return lane.y > tile.row - K;
  return true;
}

// Where the lane's addresses for ldmatrix start, for the two n-tiles of a step.
struct SeenAddress {
  unsigned paired, single;  // `single`: of steps whose rows follow each other
  SASA_DEVICE SeenAddress(int which, int row) {
    const int columns = K + kTileW - 1;  // the last of 8 or 16 may lie outside: any pixel does in its place
    if constexpr (kColumnTiles == 2) {
      const int column = 8 * which + row < columns ? 8 * which + row : columns - 1;
      paired = single = column * kChunk;
    } else {
      const int column = row < columns ? row : columns - 1;
      paired = (which * K * kHaloW + column) * kChunk;
      single = (which * kHaloW + column) * kChunk;
    }
  }
  SASA_DEVICE unsigned at(int step) const {
    return (kColumnTiles == 2 || step < kPaired ? paired : single) + seen_tile(step, 0).row * kHaloW * kChunk;
  }
};

// The offset of a unit's first seen pixel in a plane of the halo.
SASA_DEVICE unsigned seen_origin(int unit) {
  return (unit / SASA_UNITS_X * kTileH * kHaloW + unit % SASA_UNITS_X * kTileW) * kChunk;
}

// c[which] = A . X^T for both n-tiles of a step; X: a map's halo from the unit's origin on.
SASA_DEVICE void score(float (&c)[2][4], const Fragments& a, unsigned planes, int step, const Lane& lane) {
#pragma unroll
  for (int e = 0; e < 4; e++) c[0][e] = c[1][e] = 0;
  if constexpr (D == 8) {
    unsigned r[2];
    load_matrix(r, planes + SeenAddress(lane.matrix & 1, lane.row).at(step));
    multiply<Element>(c[0], a.at[0][0], a.at[0][1], r[0]);
    multiply<Element>(c[1], a.at[0][0], a.at[0][1], r[1]);
  } else {
    const unsigned address = planes + (lane.matrix & 1) * kHaloPlane + SeenAddress(lane.matrix >> 1, lane.row).at(step);
#pragma unroll
    for (int s = 0; s < kSteps16; s++) {
      unsigned r[4];
      load_matrix(r, address + 2 * s * kHaloPlane);
      multiply<Element>(c[0], a.at[s], r[0], r[1]);
      multiply<Element>(c[1], a.at[s], r[2], r[3]);
    }
  }
}

// Puts the products of a step where their places are.
SASA_DEVICE void keep_seen(float (&kept)[K][kColumnTiles][4], const float (&c)[2][4], int step, const Lane& lane) {
#pragma unroll
  for (int which = 0; which < 2; which++) {
    const SeenTile tile = seen_tile(step, which);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float& to = kept[tile.place()][tile.column_tile][e];
      to = tile.is_second() && !sees(tile, lane) ? to : c[which][e];
    }
  }
}
SASA_DEVICE void scores(float (&kept)[K][kColumnTiles][4], const Fragments& a, unsigned planes, const Lane& lane) {
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    float c[2][4];
    score(c, a, planes, step, lane);
    keep_seen(kept, c, step, lane);
  }
}

// The A operand of a step: pairs (h = 0, 1) of both n-tiles, zero where the lane's pixels do not see the row.
SASA_DEVICE void seen_operand(unsigned (&a)[4], const unsigned (&pairs)[2][2], int step, const Lane& lane) {
#pragma unroll
  for (int which = 0; which < 2; which++) {
    const bool seen = sees(seen_tile(step, which), lane);
    a[2 * which] = seen ? pairs[which][0] : 0u;
    a[2 * which + 1] = seen ? pairs[which][1] : 0u;
  }
}

SASA_DEVICE bool column_seen(int column, int x) { return static_cast<unsigned>(column - x) < static_cast<unsigned>(K); }

// sum += A . X for the 16 pixels of a step, one seen pixel after the other: what a pixel of the warp's tile does not see
// adds nothing to it. In an mma it adds zero times its value, which is NaN where that is not finite.
SASA_DEVICE void add_weighted_exactly(float (&sum)[kHeadPlanes][4], const unsigned (&a)[4], unsigned planes, int step,
                                      const Lane& lane) {
#pragma unroll 1
  for (int k = 0; k < 16; k++) {
    const int row = k < 8 ? seen_tile(step, 0).row : seen_tile(step, 1).row;
    const int column = kColumnTiles == 2 ? k : k % 8, last = K + kTileW - 2;
    const unsigned pixel = planes + (row * kHaloW + (column < last ? column : last)) * kChunk + 4 * lane.t;
    float weight[2];
    bool seen[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const unsigned pair = shuffle(k < 8 ? a[h] : a[2 + h], 4 * lane.g + k % 8 / 2);
      weight[h] = k % 2 == 0 ? low<Element>(pair) : high<Element>(pair);
      seen[h] = row >= lane.y && row < lane.y + K && column_seen(column, lane.x(h));
    }
#pragma unroll
    for (int n = 0; n < kHeadPlanes; n++) {
      const unsigned x = load_shared<unsigned>(pixel + n * kHaloPlane);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float more = fmaf(weight[i / 2], i % 2 == 0 ? low<Element>(x) : high<Element>(x), sum[n][i]);
        sum[n][i] = seen[i / 2] ? more : sum[n][i];
      }
    }
  }
}

// Whether any lane's sums are not finite. Then a unit is computed once more, exactly: NaN and infinity must reach what
// the equation says, and nothing else.
template <int N>
SASA_DEVICE bool any_not_finite(const float (&sum)[N][4]) {
  float zero = 0;
#pragma unroll
  for (int n = 0; n < N; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) zero = fmaf(sum[n][i], 0.f, zero);
  }
  return any(zero != 0.f);
}

// sum += A . X for the 16 pixels of a step.
template <bool EXACT>
SASA_DEVICE void add_weighted(float (&sum)[kHeadPlanes][4], const unsigned (&a)[4], unsigned planes, int step,
                              const Lane& lane) {
  if constexpr (EXACT) {
    add_weighted_exactly(sum, a, planes, step, lane);
  } else if constexpr (D == 8) {
    unsigned r[2];
    load_matrix_transposed(r, planes + SeenAddress(lane.matrix & 1, lane.row).at(step));
    multiply<Element>(sum[0], a, r[0], r[1]);
  } else {
    const unsigned address = planes + (lane.matrix >> 1) * kHaloPlane + SeenAddress(lane.matrix & 1, lane.row).at(step);
#pragma unroll
    for (int n = 0; n < kHeadPlanes; n += 2) {
      unsigned r[4];
      load_matrix_transposed(r, address + n * kHaloPlane);
      multiply<Element>(sum[n], a, r[0], r[1]);
      multiply<Element>(sum[n + 1], a, r[2], r[3]);
    }
  }
}

// The lane's part of a (16, D) result to the unit's slots, from where whole chunks are written.
SASA_DEVICE void stage_result(unsigned planes, const float (&c)[kHeadPlanes][4], int unit, const Lane& lane) {
#pragma unroll
  for (int n = 0; n < kHeadPlanes; n++) {
    const unsigned to = planes + n * kTilePlane + (unit * 16 + lane.g) * kChunk + 4 * lane.t;
    store_shared(to, pack<Element>(c[n][0], c[n][1]));
    store_shared(to + 8 * kChunk, pack<Element>(c[n][2], c[n][3]));
  }
}
// Writes the unit's slots, all heads of the block, to the pixels that exist.
SASA_DEVICE void write_unit(const Map& map, unsigned planes, int64_t image, int head, int unit, int y0, int x0,
                            int height, int width, const Lane& lane) {
#pragma unroll
  for (int i = 0; i < (16 * kPlanes + 31) / 32; i++) {
    const int chunk = lane.id + 32 * i, plane = chunk % kPlanes, slot = unit * 16 + chunk / kPlanes;
    if (16 * kPlanes < 32 && chunk >= 16 * kPlanes) continue;
    const Pixel pixel = pixel_of_slot(slot, y0, x0);
    if (pixel.y >= height || pixel.x >= width) continue;
    const Chunk value = load_shared<Chunk>(planes + plane * kTilePlane + slot * kChunk);
    store_global(
        reinterpret_cast<Chunk*>(const_cast<Element*>(pixel_of(map, image, pixel.y, pixel.x, head) + plane * 8)),
        value);
  }
}

// Copies one float for each pixel of the tile and each of the block's heads from or to a (B, N, H, W) array, in the order
// of the array's rows, so that a warp touches whole runs of pixels. In shared memory: heads, then slots.
template <bool WRITE>
SASA_DEVICE void move_tile_floats(float* array, unsigned shared, const LocalShape& shape, const BlockPlace& place,
                                  int y0, int x0) {
  const int height = shape.height, width = shape.width;
#pragma unroll 1
  for (int i = threadIdx.x; i < kHeads * kUnits * 16; i += kThreads) {
    const int h = i / (kUnits * 16), row = i / kBlockW % kBlockH, column = i % kBlockW;
    const int unit = row / kTileH * SASA_UNITS_X + column / kTileW, m = row % kTileH + column % kTileW * kTileH;
    const bool inside = y0 + row < height && x0 + column < width;
    const int64_t plane = place.image * shape.heads + place.head + h;
    float* at = array + (plane * height + y0 + row) * width + x0 + column;
    const unsigned slot = shared + (h * kUnits * 16 + unit * 16 + m) * 4;
    if constexpr (WRITE) {
      if (inside) store_global(at, load_shared<float>(slot));
    } else {
      store_shared(slot, inside ? load_global(at) : 0.f);
    }
  }
}

template <int N>
SASA_DEVICE void clear(float (&c)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) c[n][e] = 0;
}

SASA_DEVICE float quad_max(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}
SASA_DEVICE float quad_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

}  // namespace sasa
