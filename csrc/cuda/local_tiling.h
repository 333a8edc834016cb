// How the tiles of local attention are shared out among blocks: the plan fills it in, the kernels read it.
#pragma once

namespace sasa {

// Block x does head group x % head_groups and, of image x / head_groups / chunks, up to tiles_of_chunk tiles from tile
// (x / head_groups % chunks) * tiles_of_chunk on, row by row.
struct LocalTiling {
  int tiles_x, tiles_y, head_groups, chunks, tiles_of_chunk;
};

}  // namespace sasa
