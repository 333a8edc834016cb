// Attention inside blocks works on M = W_Q^T W_K and A_o = W_Q^T r_o of each head, which are small: an image has few
// channels, and neither queries nor keys are ever formed. With pixels p and s of a block,
//
//     logit = scale (x_p . M x_s + x_p . A_row[s - p] + x_p . A_col[s - p])
//
// sasa_block_fold makes them, times scale, in the units of exponential(); sasa_block_unfold turns the gradients of M
// and A (without factors) into those of W_Q, W_K and r.
#include "elements.cuh"
#include "workspaces.h"

namespace sasa {

struct BlockWeights {
  int64_t C, D, O, half;  // image channels, channels of a head, offsets
  const Compute *w_query, *w_key, *rel_row, *rel_col;

  template <class Call>
  SASA_DEVICE explicit BlockWeights(const Call& call)
      : C(call.shape.channels), D(call.shape.head_dim), O(2 * call.shape.block - 1), half(call.shape.head_dim / 2) {
    w_query = static_cast<const Compute*>(call.w_query), w_key = static_cast<const Compute*>(call.w_key);
    rel_row = static_cast<const Compute*>(call.rel_row), rel_col = static_cast<const Compute*>(call.rel_col);
  }

  SASA_DEVICE Compute query(int64_t n, int64_t d, int64_t c) const {
    return load_global(w_query + (n * D + d) * C + c);
  }
  SASA_DEVICE Compute key(int64_t n, int64_t d, int64_t c) const { return load_global(w_key + (n * D + d) * C + c); }
  // Channel d of the embedding of offset o: of rows in the first half of the channels, of columns in the second.
  SASA_DEVICE Compute relative(int64_t n, int64_t o, int64_t d) const {
    return load_global((d < half ? rel_row : rel_col) + (n * O + o) * half + d % half);
  }

  SASA_DEVICE Compute content(int64_t n, int64_t c, int64_t s) const {
    Compute sum = 0;
    for (int64_t d = 0; w_key != nullptr && d < D; d++) sum += query(n, d, c) * key(n, d, s);
    return sum;
  }
  SASA_DEVICE Compute offset(int64_t n, bool columns, int64_t o, int64_t c) const {
    Compute sum = 0;
    for (int64_t d = 0; rel_row != nullptr && d < half; d++) {
      const int64_t channel = columns ? half + d : d;
      sum += query(n, channel, c) * relative(n, o, channel);
    }
    return sum;
  }
};

SASA_DEVICE int64_t thread_of_grid() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// What the gradients of one head are made of.
struct HeadGradients {
  const BlockWeights& weights;
  int64_t n;
  const Compute *content, *rows, *columns, *values;

  SASA_DEVICE HeadGradients(const BlockWeights& of, const void* total, int64_t head, int64_t elements)
      : weights(of), n(head), content(static_cast<const Compute*>(total) + head * elements) {
    rows = content + weights.C * weights.C;
    columns = rows + weights.O * weights.C;
    values = columns + weights.O * weights.C;
  }

  SASA_DEVICE Compute of_query(int64_t d, int64_t c) const {
    Compute sum = 0;
    for (int64_t s = 0; weights.w_key != nullptr && s < weights.C; s++) {
      sum += load_global(content + c * weights.C + s) * weights.key(n, d, s);
    }
    const Compute* offsets = d < weights.half ? rows : columns;
    for (int64_t o = 0; weights.rel_row != nullptr && o < weights.O; o++) {
      sum += load_global(offsets + o * weights.C + c) * weights.relative(n, o, d);
    }
    return sum;
  }
  SASA_DEVICE Compute of_key(int64_t d, int64_t s) const {
    Compute sum = 0;
    for (int64_t c = 0; c < weights.C; c++) sum += load_global(content + c * weights.C + s) * weights.query(n, d, c);
    return sum;
  }
  SASA_DEVICE Compute of_relative(int64_t o, int64_t d) const {
    const Compute* offsets = d < weights.half ? rows : columns;
    Compute sum = 0;
    for (int64_t c = 0; c < weights.C; c++) sum += weights.query(n, d, c) * load_global(offsets + o * weights.C + c);
    return sum;
  }
};

template <class Call>
SASA_DEVICE void fold(const Call& call, const BlockWorkspace& workspace) {
  const BlockWeights weights(call);
  const int64_t C = weights.C, O = weights.O, elements = folded_elements(call.shape), i = thread_of_grid();
  if (i >= elements * call.shape.heads) return;
  const int64_t n = i / elements, rest = i % elements, offset = (rest - C * C) / C;
  const Compute sum =
      rest < C * C ? weights.content(n, rest / C, rest % C) : weights.offset(n, offset >= O, offset % O, rest % C);
  store_global(static_cast<Compute*>(workspace.folded) + i,
               sum * static_cast<Compute>(call.shape.scale) * kUnit<Compute>);
}

}  // namespace sasa

// A thread for each element of `folded`.
SASA_KERNEL(128)
void sasa_block_fold(SASA_ARGUMENT sasa::BlockForward call, SASA_ARGUMENT sasa::BlockWorkspace workspace) {
  sasa::fold(call, workspace);
}
SASA_KERNEL(128)
void sasa_block_fold_backward(SASA_ARGUMENT sasa::BlockBackward call, SASA_ARGUMENT sasa::BlockWorkspace workspace) {
  sasa::fold(call, workspace);
}

// A thread for each element of the largest gradient.
SASA_KERNEL(128)
void sasa_block_unfold(SASA_ARGUMENT sasa::BlockBackward call, SASA_ARGUMENT sasa::BlockWorkspace workspace) {
  using namespace sasa;
  const BlockWeights weights(call);
  const int64_t C = weights.C, D = weights.D, O = weights.O, half = weights.half, N = call.shape.heads;
  const int64_t P = call.shape.block * call.shape.block, E = call.shape.value_dim, i = thread_of_grid();
  const int64_t elements = gradient_elements(call.shape, call.w_value != nullptr);
  const Compute scale = static_cast<Compute>(call.shape.scale);
  auto of_head = [&](int64_t n) { return HeadGradients(weights, workspace.total, n, elements); };
  auto store = [&](void* to, Compute x) { store_global(static_cast<Compute*>(to) + i, x); };
  if (i < N * D * C) {
    const HeadGradients head = of_head(i / (D * C));
    const int64_t d = i / C % D, c = i % C;
    store(call.grad_w_query, head.of_query(d, c) * scale);
    if (weights.w_key != nullptr) store(call.grad_w_key, head.of_key(d, c) * scale);
  }
  if (weights.rel_row != nullptr && i < N * O * half) {
    const HeadGradients head = of_head(i / (O * half));
    const int64_t o = i / half % O, d = i % half;
    store(call.grad_row, head.of_relative(o, d) * scale);
    store(call.grad_col, head.of_relative(o, half + d) * scale);
  }
  if (call.w_value != nullptr && i < P * N * E * C) {  // (P, N * E, C); in `total` it is (N, P, E, C)
    const int64_t s = i / (N * E * C), n = i / (E * C) % N, rest = i % (E * C);
    store(call.grad_w_value, load_global(of_head(n).values + s * E * C + rest));
  }
}
