// The weights of attention inside blocks, prepared for images with few channels.
//
// The products with W_Q and W_K are never formed. With M = W_Q^T W_K, (C, C), and A_o = W_Q^T r_o, one vector of C for
// each row or column offset o, the logit of pixels p and s of a block is
//
//     x_p . (M x_s) + x_p . A_row[s - p] + x_p . A_col[s - p]
//
// Where a pixel or a weight is infinite, this order of products may give NaN where q . k gives infinity, or the
// reverse: tiles with such numbers form q and k (direct_logits).
//
// Notation: P = S * S positions of a block, p of queries and s of keys; C channels of the image, D and E channels of a
// head.
#pragma once
#include "tiles.h"

namespace {

using sasa::BlockShape;

// M and A of one head, times the scale, in units of log2(e); null: the call has no such terms.
template <class T>
struct HeadWeights {
  T* content;  // M, (C, C)
  T* rows;     // A_row, (2 * S - 1, C)
  T* columns;  // A_col
  int64_t head;
};

// The weights of a call, and M and A of its heads, which a task computes once.
template <class T>
class BlockWeights {
 public:
  struct Gradients {
    T *w_query, *w_key, *rel_row, *rel_col;
  };

  template <class Call>  // BlockForward or BlockBackward
  explicit BlockWeights(const Call& call)
      : shape_(call.shape),
        w_query_(static_cast<const T*>(call.w_query)),
        w_key_(static_cast<const T*>(call.w_key)),
        rel_row_(static_cast<const T*>(call.rel_row)),
        rel_col_(static_cast<const T*>(call.rel_col)) {}

  void lay_out(Arena& arena) { memory_ = arena.take<T>(shape_.heads * head_elements()); }

  const BlockShape& shape() const { return shape_; }
  // Whether M and A of all heads are finite.
  bool finite() const { return finite_; }

  HeadWeights<T> head(int64_t n) const {
    const int64_t C = shape_.channels, O = offsets();
    T* first = memory_ + n * head_elements();
    return {w_key_ ? first : nullptr, rel_row_ ? first + C * C : nullptr, rel_row_ ? first + C * C + O * C : nullptr,
            n};
  }

  // Compute M and A of all heads.
  void fill() {
    const int64_t C = shape_.channels, D = shape_.head_dim, O = offsets(), half = D / 2;
    const T factor = static_cast<T>(shape_.scale * kLog2e);
    for (int64_t n = 0; n < shape_.heads; ++n) {
      const HeadWeights<T> head = this->head(n);
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

  // The logits of query pixel p of head n from q and k themselves: logits[s][L] in units of log2(e).
  template <int L>
  void direct_logits(int64_t n, int64_t p, const T* pixels, T* logits) const {
    using V = Vec<T, L>;
    const int64_t C = shape_.channels, D = shape_.head_dim, S = shape_.block, O = offsets(), half = D / 2;
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
  void weight_gradients(const HeadWeights<const T>& grad, const Gradients& to) const {
    const int64_t C = shape_.channels, D = shape_.head_dim, O = offsets(), half = D / 2, n = grad.head;
    const T scale = static_cast<T>(shape_.scale);
    for (int64_t d = 0; d < D; ++d)
      for (int64_t c = 0; c < C; ++c) {
        T query = 0, key = 0;
        for (int64_t s = 0; w_key_ && s < C; ++s) {
          query += grad.content[c * C + s] * w_key_[(n * D + d) * C + s];
          key += grad.content[s * C + c] * w_query_[(n * D + d) * C + s];
        }
        const T* grads = d < half ? grad.rows : grad.columns;
        const T* rel = d < half ? rel_row_ : rel_col_;
        for (int64_t o = 0; rel_row_ && o < O; ++o) query += grads[o * C + c] * rel[(n * O + o) * half + d % half];
        to.w_query[(n * D + d) * C + c] = query * scale;
        if (w_key_) to.w_key[(n * D + d) * C + c] = key * scale;
      }
    for (int64_t d = 0; rel_row_ && d < D; ++d)
      for (int64_t o = 0; o < O; ++o) {
        const T* grads = d < half ? grad.rows : grad.columns;
        T sum = 0;
        for (int64_t c = 0; c < C; ++c) sum += w_query_[(n * D + d) * C + c] * grads[o * C + c];
        (d < half ? to.rel_row : to.rel_col)[(n * O + o) * half + d % half] = sum * scale;
      }
  }

 private:
  int64_t offsets() const { return 2 * shape_.block - 1; }
  int64_t head_elements() const { return shape_.channels * (shape_.channels + 2 * offsets()); }

  const BlockShape& shape_;
  const T *w_query_, *w_key_, *rel_row_, *rel_col_;
  T* memory_ = nullptr;
  bool finite_ = true;
};

}  // namespace
