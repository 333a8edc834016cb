// How the tiles of local attention are shared out among blocks: the plan fills it in, the kernels read it.
#pragma once

namespace sasa {

// Block x does head group x % head_groups and, of image x / head_groups / chunks, up to tiles_of_chunk tiles from tile
// (x / head_groups % chunks) * tiles_of_chunk on, row by row.
struct LocalTiling {
  int tiles_x, tiles_y, head_groups, chunks, tiles_of_chunk;
};

// Memory that the backward kernels hand on.
struct LocalWork {
  float* delta;  // (B, N, H, W): sum of p * dp over each query's window, from the queries' kernel to the keys'
  float* parts;  // (B, chunks, N, 2, K, D / 2): gradients of the row and column table, unless chunks is 1
};

}  // namespace sasa
