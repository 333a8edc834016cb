// Shared by forward and backward of attention inside blocks: their inputs, and how an image becomes tasks.
#pragma once
#include "block_tile.h"

namespace {

// The blocks of a map.
struct BlockGrid {
  int64_t down, across;  // blocks
  int64_t step;          // elements between channels of a planar row: whole tiles of whole blocks
  explicit BlockGrid(const BlockShape& shape)
      : down((shape.height + shape.block - 1) / shape.block),
        across((shape.width + shape.block - 1) / shape.block),
        step(round_up(across, 16) * shape.block + 16) {}
};

// The image, values and weights of a call; of one tile, its pixels, and of one head its softmax weights and values.
template <class T>
class BlockInputs {
 public:
  template <class Call>  // BlockForward or BlockBackward
  explicit BlockInputs(const Call& call)
      : shape(call.shape),
        io(RowAccess<T>::of(shape.storage)),
        grid(shape),
        weights(call),
        value_given(call.value.data != nullptr),
        positions(shape.block * shape.block),
        channels(shape.heads * shape.value_dim),
        image_map_(call.image),
        value_map_(call.value),
        w_value_(static_cast<const T*>(call.w_value)) {}

  void lay_out(Arena& arena) {
    const int64_t C = shape.channels, E = shape.value_dim, P = positions, S = shape.block, L = kLanes<T>;
    weights.lay_out(arena);
    image_rows_ = arena.take<T>(S * C * grid.step);
    value_rows_ = arena.take<T>(value_given ? S * channels * grid.step : 0);
    pixels = arena.take<T>(P * C * L);
    scratch = arena.take<T>((P * C + 2 * S) * L);
    tile_weights = arena.take<T>(P * P * L);
    values = arena.take<T>(P * E * L);
  }

  // Must follow lay_out, once.
  void prepare() {
    weights.fill();
    image_rows().clear_all();
    if (value_given) value_rows().clear_all();
  }

  // Planar rows in `memory`, for a row of blocks.
  BlockRows<T> rows(T* memory, int64_t count) const {
    return {memory, count, shape.block, grid.step, shape.height, shape.width};
  }

  void pack(int64_t b, int64_t y) const {
    image_rows().pack(io, image_map_, b, y);
    if (value_given) value_rows().pack(io, value_map_, b, y);
  }

  // The pixels of the tile from column x of the map on.
  template <int L>
  void load_tile(int64_t x) const {
    image_rows().template load_tile<L>(0, shape.channels, x, pixels);
  }

  // Softmax weights and values of a head in that tile; logsumexp[p][L] unless null.
  template <int L>
  void attend(const HeadWeights<T>& head, const BlockPlace& place, T* logsumexp) const {
    const int64_t E = shape.value_dim;
    block_weights<T, L>(weights, head, place, pixels, scratch, tile_weights, logsumexp);
    if (value_given) {
      value_rows().template load_tile<L>(head.head * E, E, place.x, values);
    } else {
      block_values<T, L>(w_value_, head.head, shape, place, pixels, values);
    }
  }

  const BlockShape& shape;
  const RowAccess<T> io;
  const BlockGrid grid;
  BlockWeights<T> weights;
  const bool value_given;             // as a map, in place of w_value
  const int64_t positions, channels;  // of a block; of the output
  T *pixels, *scratch, *tile_weights, *values;

 private:
  BlockRows<T> image_rows() const { return rows(image_rows_, shape.channels); }
  BlockRows<T> value_rows() const { return rows(value_rows_, channels); }

  const Map &image_map_, &value_map_;
  const T* const w_value_;
  T *image_rows_, *value_rows_;
};

// Run tasks of type Task<T> on all strips of all images.
template <template <class> class Task, class Call>
void run_strips(const Call& call, const sasa::Parallel& threads) {
  with_compute_type(call.shape.storage, [&](auto number) {
    const int64_t strips = sasa::block_strips(call.shape);
    parallel(threads, call.shape.batch * strips, [&](int64_t first, int64_t last) {
      Task<decltype(number)> task(call);
      for (int64_t i = first; i < last; ++i) task.run(i / strips, i % strips);
    });
  });
}

}  // namespace
