// What forward and backward of block attention share: a tile is L neighbouring blocks of one row of blocks, one in
// each lane, so that a position of the block is a vector and blocks do not meet.
//
// The picture has few channels, so the products with W_Q and W_K are never formed. With M = W_Q^T W_K, C x C, and
// A_o = W_Q^T r_o, one vector of C for each row or column offset, the logit of pixels p and s of a block is
//
//     x_p . (M x_s) + x_p . A_row[s - p] + x_p . A_col[s - p]
//
// With an infinite pixel or weight the products in this order give NaN where q . k gives infinity, or the other way
// round: tiles that hold such a one form q and k after all.
//
// Words: P = S * S positions of a block, p of queries and s of keys, C picture channels, D and E channels of a head.
#pragma once
#include "kernels.h"
#include "local_forward.h"

namespace {

using sasa::BlockShape;

// out[i * out_i + j][L] = (or +=) sum over k of a[i * a_i + k * a_k][L] * b[k * b_k + j * b_j][L], strides in vectors.
template <class T, int L, int I, int J>
SASA_INLINE void lane_product_block(int64_t depth, const T* a, int64_t a_i, int64_t a_k, const T* b, int64_t b_k,
                                    int64_t b_j, T* out, int64_t out_i) {
  Vec<T, L> acc[I][J] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T, L> left[I];
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) left[i] = load<T, L>(a + (i * a_i + k * a_k) * L);
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) {
      Vec<T, L> right = load<T, L>(b + (k * b_k + j * b_j) * L);
      keep(right);
#pragma GCC unroll 8
      for (int i = 0; i < I; ++i) acc[i][j] += left[i] * right;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) store<T, L>(out + (i * out_i + j) * L, acc[i][j]);
}

template <class T, int L>
void lane_product(int64_t rows, int64_t depth, int64_t columns, const T* a, int64_t a_i, int64_t a_k, const T* b,
                  int64_t b_k, int64_t b_j, T* out, int64_t out_i) {
  constexpr int I = kRegisters >= 32 ? 4 : 2, J = 4;
  for (int64_t i = 0; i < rows;) {
    const bool whole_i = rows - i >= I;
    for (int64_t j = 0; j < columns;) {
      const bool whole_j = columns - j >= J;
      const T *from_a = a + i * a_i * L, *from_b = b + j * b_j * L;
      T* to = out + (i * out_i + j) * L;
      if (whole_i && whole_j) {
        lane_product_block<T, L, I, J>(depth, from_a, a_i, a_k, from_b, b_k, b_j, to, out_i);
      } else if (whole_i) {
        lane_product_block<T, L, I, 1>(depth, from_a, a_i, a_k, from_b, b_k, b_j, to, out_i);
      } else if (whole_j) {
        lane_product_block<T, L, 1, J>(depth, from_a, a_i, a_k, from_b, b_k, b_j, to, out_i);
      } else {
        lane_product_block<T, L, 1, 1>(depth, from_a, a_i, a_k, from_b, b_k, b_j, to, out_i);
      }
      j += whole_j ? J : 1;
    }
    i += whole_i ? I : 1;
  }
}

// The weights of one head as the tile wants them, in units of log2(e) and with the scale.
template <class T>
struct HeadWeights {
  T* content;  // M, (C, C)
  T* rows;     // A_row, (2 * S - 1, C)
  T* columns;  // A_col
  bool finite;
};

// Everything that a call's weights decide, made once for a task.
template <class T>
class BlockWeights {
 public:
  BlockWeights(const BlockShape& shape, const void* w_query, const void* w_key, const void* rel_row,
               const void* rel_col)
      : shape_(shape),
        w_query_(static_cast<const T*>(w_query)),
        w_key_(static_cast<const T*>(w_key)),
        rel_row_(static_cast<const T*>(rel_row)),
        rel_col_(static_cast<const T*>(rel_col)) {}

  static int64_t elements(const BlockShape& shape) {
    return shape.heads * (shape.channels * shape.channels + 2 * offsets(shape) * shape.channels);
  }
  static int64_t offsets(const BlockShape& shape) { return 2 * shape.block - 1; }

  HeadWeights<T> head(int64_t n, T* memory) const {
    const int64_t C = shape_.channels, O = offsets(shape_);
    T* first = memory + n * (C * C + 2 * O * C);
    return {w_key_ ? first : nullptr, rel_row_ ? first + C * C : nullptr, rel_row_ ? first + C * C + O * C : nullptr,
            finite_};
  }

  void fill(T* memory) {
    const int64_t C = shape_.channels, D = shape_.head_dim, O = offsets(shape_), half = D / 2;
    const T factor = static_cast<T>(shape_.scale * kLog2e);
    for (int64_t n = 0; n < shape_.heads; ++n) {
      const HeadWeights<T> head = this->head(n, memory);
      const T* query = w_query_ + n * D * C;
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t s = 0; w_key_ && s < C; ++s) {
          T sum = 0;
          for (int64_t d = 0; d < D; ++d) sum += query[d * C + c] * w_key_[(n * D + d) * C + s];
          head.content[c * C + s] = sum * factor;
        }
        for (int64_t o = 0; rel_row_ && o < O; ++o) {
          T row = 0, column = 0;
          for (int64_t d = 0; d < half; ++d) {
            row += query[d * C + c] * rel_row_[(n * O + o) * half + d];
            column += query[(half + d) * C + c] * rel_col_[(n * O + o) * half + d];
          }
          head.rows[o * C + c] = row * factor;
          head.columns[o * C + c] = column * factor;
        }
      }
      finite_ = finite_ && (!w_key_ || all_finite(head.content, C * C)) &&
                (!rel_row_ || (all_finite(head.rows, O * C) && all_finite(head.columns, O * C)));
    }
  }

  // The logits of query pixel p of head n, from q and k: logits[s][L] in units of log2(e).
  template <int L>
  void plain_logits(int64_t n, int64_t p, const T* pixels, T* logits) const {
    using V = Vec<T, L>;
    const int64_t C = shape_.channels, D = shape_.head_dim, S = shape_.block, O = offsets(shape_), half = D / 2;
    auto project = [&](const T* weight, int64_t pixel) {
      V sum = {};
      for (int64_t c = 0; c < C; ++c) sum += load<T, L>(pixels + (pixel * C + c) * L) * weight[c];
      return sum;
    };
    for (int64_t s = 0; s < S * S; ++s) {
      const int64_t row = s / S - p / S + S - 1, column = s % S - p % S + S - 1;
      V logit = {};
      for (int64_t d = 0; d < D; ++d) {
        const V query = project(w_query_ + (n * D + d) * C, p);
        if (w_key_) logit += query * project(w_key_ + (n * D + d) * C, s);
        if (rel_row_)
          logit +=
              query * (d < half ? rel_row_[(n * O + row) * half + d] : rel_col_[(n * O + column) * half + d - half]);
      }
      store<T, L>(logits + s * L, logit * static_cast<T>(shape_.scale * kLog2e));
    }
  }

  // The gradients of W_Q, W_K and r of one head from those of M and A, which come without the factor log2(e).
  void unfold(int64_t n, const T* grad_content, const T* grad_rows, const T* grad_columns, T* grad_query, T* grad_key,
              T* grad_rel_row, T* grad_rel_col) const {
    const int64_t C = shape_.channels, D = shape_.head_dim, O = offsets(shape_), half = D / 2;
    const T scale = static_cast<T>(shape_.scale);
    for (int64_t d = 0; d < D; ++d)
      for (int64_t c = 0; c < C; ++c) {
        T query = 0, key = 0;
        for (int64_t s = 0; w_key_ && s < C; ++s) {
          query += grad_content[c * C + s] * w_key_[(n * D + d) * C + s];
          key += grad_content[s * C + c] * w_query_[(n * D + d) * C + s];
        }
        const T* grads = d < half ? grad_rows : grad_columns;
        const T* rel = d < half ? rel_row_ : rel_col_;
        for (int64_t o = 0; rel_row_ && o < O; ++o) query += grads[o * C + c] * rel[(n * O + o) * half + d % half];
        grad_query[(n * D + d) * C + c] = query * scale;
        if (w_key_) grad_key[(n * D + d) * C + c] = key * scale;
      }
    for (int64_t d = 0; rel_row_ && d < D; ++d)
      for (int64_t o = 0; o < O; ++o) {
        const T* grads = d < half ? grad_rows : grad_columns;
        T sum = 0;
        for (int64_t c = 0; c < C; ++c) sum += w_query_[(n * D + d) * C + c] * grads[o * C + c];
        (d < half ? grad_rel_row : grad_rel_col)[(n * O + o) * half + d % half] = sum * scale;
      }
  }

 private:
  const BlockShape& shape_;
  const T *w_query_, *w_key_, *rel_row_, *rel_col_;
  bool finite_ = true;
};

// Positions of a block that a tile's blocks have in the picture: rows of the last blocks may lie beyond it, and so may
// columns of the last lanes.
struct BlockPlace {
  int64_t y, x, height, width, block;  // pixel of the first lane's block
  bool whole(int64_t lanes) const { return y + block <= height && x + lanes * block <= width; }
  // Lanes in which position p is a pixel.
  template <class T, int L>
  SASA_INLINE Vec<IntFor<T>, L> inside(int64_t p) const {
    const IntFor<T> row = y + p / block < height ? -1 : 0;
    const Vec<IntFor<T>, L> column =
        lane_numbers<T, L>() * static_cast<IntFor<T>>(block) + static_cast<IntFor<T>>(x + p % block);
    return (column < static_cast<IntFor<T>>(width)) & row;
  }
  // Logits of pixels beyond the picture become minus infinity.
  template <class T, int L>
  void hide_outside(int64_t positions, T* logits) const {
    for (int64_t s = 0; s < positions; ++s) {
      const Vec<T, L> hidden = splat<T, L>(-std::numeric_limits<T>::infinity());
      store<T, L>(logits + s * L, inside<T, L>(s) ? load<T, L>(logits + s * L) : hidden);
    }
  }
  // What pixel p has, `count` vectors, becomes 0 in the lanes where it lies beyond the picture.
  template <class T, int L>
  void clear_outside(int64_t p, int64_t count, T* row) const {
    const Vec<IntFor<T>, L> in = inside<T, L>(p);
    for (int64_t i = 0; i < count; ++i) store<T, L>(row + i * L, in ? load<T, L>(row + i * L) : Vec<T, L>{});
  }
};

// Planar rows of a row of blocks, pixel 0 at `row`, to tile[(p * channels + c)][L].
template <class T, int L>
void take_blocks(const T* row, int64_t row_step, int64_t step, int64_t channels, int64_t block, int64_t x, T* tile) {
  for (int64_t p = 0; p < block * block; ++p)
    for (int64_t c = 0; c < channels; ++c) {
      const T* from = row + p / block * row_step + c * step + x + p % block;
      for (int lane = 0; lane < L; ++lane) tile[(p * channels + c) * L + lane] = from[lane * block];
    }
}

// The way back.
template <class T, int L>
void give_blocks(const T* tile, int64_t channels, int64_t block, int64_t x, T* row, int64_t row_step, int64_t step) {
  for (int64_t p = 0; p < block * block; ++p)
    for (int64_t c = 0; c < channels; ++c) {
      T* to = row + p / block * row_step + c * step + x + p % block;
      for (int lane = 0; lane < L; ++lane) to[lane * block] = tile[(p * channels + c) * L + lane];
    }
}

// Softmax over s of the logits of one query pixel, in place, and their log-sum-exp in units of log2(e). As the
// reference has it, where the maximum is infinite: NaN there and 0 elsewhere.
template <class T, int L>
SASA_INLINE Vec<T, L> block_softmax(T* row, int64_t positions) {
  using V = Vec<T, L>;
  V most = splat<T, L>(-std::numeric_limits<T>::infinity()), nan = {}, sum = {};
  for (int64_t s = 0; s < positions; ++s) {
    const V logit = load<T, L>(row + s * L);
    most = maximum<T, L>(logit, most);  // in this order NaN is passed over
    nan = logit == logit ? nan : logit;
  }
  most = nan == nan ? most : nan;
  for (int64_t s = 0; s < positions; ++s) {
    const V weight = exp2_negative<T, L>(load<T, L>(row + s * L) - most);
    store<T, L>(row + s * L, weight);
    sum += weight;
  }
  const V inverse = sum == sum ? static_cast<T>(1) / sum : splat<T, L>(1);
  for (int64_t s = 0; s < positions; ++s) store<T, L>(row + s * L, load<T, L>(row + s * L) * inverse);
  return sum == sum ? most + log2_positive<T, L>(sum) : most;
}

// weights[(p * P + s)][L] of head n: softmax over s of the logits, and their log-sum-exp[p][L] in natural units.
// `scratch` holds (P + 2 * S) * C vectors. Pixels beyond the picture are no keys, and as queries they have no weights.
template <class T, int L>
void block_weights(const BlockWeights<T>& all, const HeadWeights<T>& head, int64_t n, const BlockShape& shape,
                   const BlockPlace& place, const T* pixels, T* scratch, T* weights, T* logsumexp) {
  using V = Vec<T, L>;
  const int64_t C = shape.channels, S = shape.block, P = S * S;
  T* keys = scratch;  // M x_s, (P, C)
  if (head.content) {
    for (int64_t s = 0; s < P; ++s)
      for (int64_t c = 0; c < C; ++c) {
        V sum = {};
        for (int64_t i = 0; i < C; ++i) sum += load<T, L>(pixels + (s * C + i) * L) * head.content[c * C + i];
        store<T, L>(keys + (s * C + c) * L, sum);
      }
  }
  T* terms = scratch + P * C * L;  // of p: rows of the block, then its columns
  const bool whole = place.whole(L), finite = head.finite && all_finite(pixels, P * C * L);
  for (int64_t p = 0; p < P; ++p) {
    const T* pixel = pixels + p * C * L;
    for (int64_t t = 0; t < 2 * S; ++t) {
      V sum = {};
      if (head.rows) {
        const int64_t offset = t < S ? t - p / S : t - S - p % S;
        const T* relative = (t < S ? head.rows : head.columns) + (offset + S - 1) * C;
        for (int64_t c = 0; c < C; ++c) sum += load<T, L>(pixel + c * L) * relative[c];
      }
      store<T, L>(terms + t * L, sum);
    }
    T* row = weights + p * P * L;
    if (!finite) all.template plain_logits<L>(n, p, pixels, row);
    for (int64_t s = 0; finite && s < P; ++s) {
      V logit = load<T, L>(terms + s / S * L) + load<T, L>(terms + (S + s % S) * L);
      if (head.content)
        for (int64_t c = 0; c < C; ++c) logit += load<T, L>(pixel + c * L) * load<T, L>(keys + (s * C + c) * L);
      store<T, L>(row + s * L, logit);
    }
    if (!whole) place.hide_outside<T, L>(P, row);
    const V log2_sum = block_softmax<T, L>(row, P);
    if (logsumexp) store<T, L>(logsumexp + p * L, log2_sum * static_cast<T>(kLn2));
    if (!whole) place.clear_outside<T, L>(p, P, row);
  }
}

// values[(s * E + e)][L] = w_value[s][e] . x_s, of one head; 0 for pixels beyond the picture, whatever w_value is.
template <class T, int L>
void block_values(const T* w_value, int64_t head, const BlockShape& shape, const BlockPlace& place, const T* pixels,
                  T* values) {
  const int64_t C = shape.channels, P = shape.block * shape.block, E = shape.value_dim;
  for (int64_t s = 0; s < P; ++s)
    for (int64_t e = 0; e < E; ++e) {
      const T* w = w_value + ((s * shape.heads + head) * E + e) * C;
      Vec<T, L> sum = {};
      for (int64_t c = 0; c < C; ++c) sum += load<T, L>(pixels + (s * C + c) * L) * w[c];
      store<T, L>(values + (s * E + e) * L, sum);
    }
  if (place.whole(L)) return;
  for (int64_t s = 0; s < P; ++s) place.clear_outside<T, L>(s, E, values + s * E * L);
}

// Calls f(x, lanes) for each tile across a row of blocks.
template <class T, class F>
SASA_INLINE void across_blocks(int64_t blocks, F&& f) {
  constexpr int L = kLanes<T>;
  for (int64_t x = 0; x < blocks; x += L) {
    if constexpr (kBytes == 64 && std::is_same_v<T, float>) {
      if (blocks - x <= L / 2) {
        f(x, Int<L / 2>{});
        return;
      }
    }
    f(x, Int<L>{});
  }
}

}  // namespace
