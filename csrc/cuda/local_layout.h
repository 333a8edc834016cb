// Shapes and shared memory of the tensor-core kernels of local attention: the same for the plan, on the host, and for
// the kernels. Plain C++.
//
// A warp works on 16 queries (or keys) of one head, the rows of an mma: a tile of 8 x 2 pixels for k = 7, where a row of
// the keys that it sees is exactly 8 wide, else of 4 x 4. A block works on units_y x units_x such tiles with all that
// their windows reach: the halo.
//
// A map lies in shared memory as planes of 8 channels, 16 bytes a pixel, so that ldmatrix reads any 8 pixels side by
// side without a bank conflict. Planes are padded so that the 8 lanes that copy neighbouring chunks of 16 bytes do not
// conflict either.
#pragma once

namespace sasa {

constexpr int kChunk = 16;  // bytes of 8 channels of a pixel

struct LocalLayout {
  int window, head_dim;
  int heads;             // of a block: 2 where a head has 8 channels, to fill sectors of 32 bytes
  int units_y, units_x;  // tiles of 16 pixels of a block
  int stages;            // copies of the tile's memory: 2 where the next tile is copied while one is computed
  bool content, position;

  constexpr int tile_height() const { return window == 7 ? 8 : 4; }
  constexpr int tile_width() const { return 16 / tile_height(); }
  constexpr int units() const { return units_y * units_x; }
  constexpr int warps() const { return units() < 4 ? units() : 4; }
  constexpr int height() const { return units_y * tile_height(); }
  constexpr int width() const { return units_x * tile_width(); }
  constexpr int halo_height() const { return height() + window - 1; }
  constexpr int halo_width() const { return width() + window - 1; }
  constexpr int planes() const { return heads * head_dim / 8; }

  // Pixels of a plane, with padding: pixels of several planes that are copied together lie in different banks.
  constexpr int padded(int pixels) const {
    const int rest = planes() >= 8 ? 1 : 8 / planes() % 8;
    return pixels + (rest - pixels % 8 + 8) % 8;
  }
  constexpr int halo_plane() const { return padded(halo_height() * halo_width()) * kChunk; }
  constexpr int tile_plane() const { return padded(units() * 16) * kChunk; }

  // Columns and rows of keys that a tile of 16 sees, in the n-tiles of 8 of an mma.
  constexpr int column_tiles() const { return (window + tile_width() - 1 + 7) / 8; }
  constexpr int window_rows() const { return window + tile_height() - 1; }

  // Both tables as 16-bit planes of 8 channels, a row of 16 bytes for each offset: row offsets, with zeros up to a
  // multiple of 8; column offsets, with zeros in front so that a table shifted by up to tile_width() - 1 can be read.
  constexpr int offset_tiles() const { return (window + 7) / 8; }
  constexpr int row_table_rows() const { return 8 * offset_tiles(); }
  constexpr int col_table_pad() const { return tile_width() - 1; }
  constexpr int col_table_rows() const {
    const int tiles = offset_tiles() > column_tiles() ? offset_tiles() : column_tiles();
    return col_table_pad() + 8 * tiles;
  }
  // Each table has half of the channels; with 8 channels a head the plane's other half is zero. Planes of the rounded
  // numbers are followed by as many of what rounding left: float32 tables keep 16 bits or more.
  constexpr int table_planes() const { return head_dim == 8 ? 1 : head_dim / 16; }
  constexpr int row_table_plane() const { return row_table_rows() * kChunk; }
  constexpr int col_table_plane() const { return col_table_rows() * kChunk; }
  constexpr int head_tables() const { return 2 * table_planes() * (row_table_plane() + col_table_plane()); }
  constexpr int tables() const { return position ? heads * head_tables() : 0; }

  // Row terms of a warp's 16 queries, floats.
  constexpr int terms_stride() const { return window <= 7 ? 8 : 12; }
  constexpr int terms() const { return position ? 16 * terms_stride() * 4 : 0; }
  // A float for each pixel of the tile and each head.
  constexpr int tile_floats() const { return heads * units() * 16 * 4; }

  // Forward: [stage: keys, values, queries] tables, terms of each warp, log-sum-exp.
  constexpr int forward_stage() const { return planes() * ((content ? 2 : 1) * halo_plane() + tile_plane()); }
  constexpr int forward_bytes() const {
    return stages * forward_stage() + tables() + warps() * terms() + tile_floats();
  }

  // Queries' gradient: keys, values, queries, output's gradient, log-sum-exp, delta; tables; terms and sums of each warp.
  // The tables' gradients are summed over the warps where the keys were.
  constexpr int sums_stride() const { return 2 * 16 * offset_tiles() + 16; }  // bytes: no conflict for ldmatrix
  constexpr int offset_sums() const { return position ? 16 * sums_stride() : 0; }
  constexpr int queries_maps() const { return planes() * ((content ? 2 : 1) * halo_plane() + 2 * tile_plane()); }
  constexpr int queries_bytes() const {
    return queries_maps() + 2 * tile_floats() + tables() + warps() * (terms() + offset_sums());
  }

  // Keys' and values' gradients: queries, output's gradient; keys, values of the tile; tables; position terms,
  // log-sum-exp and delta of each pixel of the halo, for one head after the other.
  constexpr int bias_stride() const { return window <= 7 ? 20 : 28; }  // floats a pixel: no bank conflict
  constexpr int halo_pixels() const { return halo_height() * halo_width(); }
  constexpr int keys_bytes() const {
    return planes() * (2 * halo_plane() + 2 * tile_plane()) + tables() +
           halo_pixels() * (8 + (position ? 4 * bias_stride() : 0));
  }
};

}  // namespace sasa
