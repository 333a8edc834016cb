// Eq. 3 backward. A task is one head of one image. The softmax weights p are computed again from q, k and the
// log-sum-exp:
//
//     p = exp(logit - lse)      dp = dy . v      ds = p (dp - sum p dp)
//     dq = scale sum ds (k + r)      dk = scale sum ds q      dv = sum p dy      dr = scale sum ds q
//
// Tiles of queries go down the map and write p and ds of their rows to ring buffers, one plane for each offset of the
// window. Tiles of keys follow half a window behind and gather: windows are symmetric, so all queries that see a key
// are in the rows around it. Nothing is scattered, so every sum has a fixed order, and p and ds are kept for a few rows
// only.
//
// Queries are multiplied by scale * log2(e), so that the exponential is 2**x.
#pragma once
#include "local_forward.h"

namespace {

using sasa::LocalBackward;

template <class T, int K>
class LocalBackwardTask {
 public:
  explicit LocalBackwardTask(const LocalBackward& call)
      : call_(call),
        shape_(call.shape),
        io_(RowAccess<T>::of(call.shape.storage)),
        window_(K > 0 ? K : shape_.window),
        half_(window_ / 2),
        slots_(window_ - 1 + 2 * kRows<K>),
        layout_(shape_.width, half_) {
    allocate_scratch([this](Arena& arena) { lay_out(arena); });
    if (call_.key.data) keys().clear_all();
    const RowRing<T> rings[] = {values(), queries(), grads(), weights(), grad_logits()};
    for (const RowRing<T>& ring : rings) ring.clear_all();
    clear(logsumexp_, kRows<K> * layout_.step);
  }

  void run(int64_t b, int64_t head) {
    begin_head(head);
    int64_t packed = 0, gathered = 0;
    for (int64_t y = 0, rows; y < shape_.height; y += rows) {
      rows = tile_rows<K>(shape_.height - y, window_);
      for (; packed < shape_.height && packed < y + rows + half_; ++packed) pack_keys_and_values(b, head, packed);
      query_rows(b, head, y, rows);
      const int64_t ready = y + rows == shape_.height ? shape_.height : y + rows - half_;
      gathered = gather(b, head, gathered, ready);
    }
    end_head(b, head);
  }

 private:
  void lay_out(Arena& arena) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, R = kRows<K>, L = kLanes<T>;
    const int64_t area = window_ * window_;
    keys_ = arena.take<T>(call_.key.data ? RowRing<T>::elements(slots_, D, layout_) : 0);
    values_ = arena.take<T>(RowRing<T>::elements(slots_, E, layout_));
    queries_ = arena.take<T>(RowRing<T>::elements(slots_, D, layout_));
    grads_ = arena.take<T>(RowRing<T>::elements(slots_, E, layout_));
    weights_ = arena.take<T>(RowRing<T>::elements(slots_, area, layout_));
    grad_logits_ = arena.take<T>(RowRing<T>::elements(slots_, area, layout_));
    results_ = arena.take<T>(R * layout_.row(D > E ? D : E));
    logsumexp_ = arena.take<T>(R * layout_.step);
    logits_ = arena.take<T>(R * area * L);
    products_ = arena.take<T>(R * area * L);
    terms_ = arena.take<T>(2 * R * window_ * L);
    relative_ = arena.take<T>(call_.rel_row ? D * window_ : 0);
    grad_relative_ = arena.take<T>(call_.rel_row ? D * window_ * L : 0);
    tile_keys_ = arena.take<const T*>(R + window_);
    tile_values_ = arena.take<const T*>(R + window_);
  }

  RowRing<T> keys() const { return {keys_, slots_, shape_.head_dim, layout_}; }
  RowRing<T> values() const { return {values_, slots_, shape_.value_dim, layout_}; }
  RowRing<T> queries() const { return {queries_, slots_, shape_.head_dim, layout_}; }
  RowRing<T> grads() const { return {grads_, slots_, shape_.value_dim, layout_}; }
  // p and ds: a row has a plane for each offset of the window, zeros outside the map.
  RowRing<T> weights() const { return {weights_, slots_, window_ * window_, layout_}; }
  RowRing<T> grad_logits() const { return {grad_logits_, slots_, window_ * window_, layout_}; }

  T* result_row(int64_t r, int64_t channels) const { return results_ + r * layout_.row(channels) + layout_.pad; }
  Relative<T> relative() const {
    if (!call_.rel_row) return {nullptr, nullptr};
    return {relative_, relative_ + shape_.head_dim / 2 * window_};
  }

  void begin_head(int64_t head) {
    if (!call_.rel_row) return;
    const int64_t d = shape_.head_dim / 2;
    transpose_relative(static_cast<const T*>(call_.rel_row) + head * window_ * d, window_, d, relative_);
    transpose_relative(static_cast<const T*>(call_.rel_col) + head * window_ * d, window_, d, relative_ + window_ * d);
    clear(grad_relative_, shape_.head_dim * window_ * kLanes<T>);
  }

  void end_head(int64_t b, int64_t head) {
    if (!call_.rel_row) return;
    const int64_t d = shape_.head_dim / 2, first = (b * shape_.heads + head) * window_ * d;
    T* to[2] = {static_cast<T*>(call_.grad_row) + first, static_cast<T*>(call_.grad_col) + first};
    for (int64_t part = 0; part < 2; ++part)
      for (int64_t c = 0; c < d; ++c)
        for (int64_t o = 0; o < window_; ++o)
          to[part][o * d + c] = static_cast<T>(kLn2) *
                                sum_lanes<T, kLanes<T>>(grad_relative_ + ((part * d + c) * window_ + o) * kLanes<T>);
  }

  void pack_keys_and_values(int64_t b, int64_t head, int64_t y) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, W = shape_.width;
    if (call_.key.data) io_.pack({call_.key, b, head * D, D, y, W}, 1, keys().row(y), layout_.step);
    io_.pack({call_.value, b, head * E, E, y, W}, 1, values().row(y), layout_.step);
  }

  // p, ds, dq and the gradients of the embeddings, of `rows` rows of queries from y on.
  void query_rows(int64_t b, int64_t head, int64_t y, int64_t rows) {
    const int64_t D = shape_.head_dim, E = shape_.value_dim, W = shape_.width, seen = rows + window_ - 1;
    for (int64_t r = 0; r < rows; ++r) {
      const T factor = static_cast<T>(shape_.scale * kLog2e);
      io_.pack({call_.query, b, head * D, D, y + r, W}, factor, queries().row(y + r), layout_.step);
      io_.pack({call_.grad_output, b, head * E, E, y + r, W}, 1, grads().row(y + r), layout_.step);
      const T* from = static_cast<const T*>(call_.logsumexp) + ((b * shape_.heads + head) * shape_.height + y + r) * W;
      for (int64_t x = 0; x < W; ++x) logsumexp_[r * layout_.step + x] = from[x] * static_cast<T>(kLog2e);
    }
    if (call_.key.data) keys().window_rows(y - half_, seen, shape_.height, half_, tile_keys_);
    values().window_rows(y - half_, seen, shape_.height, half_, tile_values_);
    each_tile<T, K>(W, rows, [&](int64_t x, auto lanes, auto tile_rows) {
      query_tile<decltype(lanes)::value, decltype(tile_rows)::value>(y, x);
    });
    for (int64_t r = 0; r < rows; ++r)
      io_.unpack(result_row(r, D), layout_.step, {call_.grad_query, b, head * D, D, y + r, W});
  }

  template <int L, int R>
  void query_tile(int64_t y, int64_t x) {
    const TilePlace place{y, x, shape_.height, shape_.width, window_, shape_.mask};
    const int64_t step = layout_.step, k = K > 0 ? K : window_;
    const Rows<T> keys{call_.key.data ? tile_keys_ : nullptr, x, step}, values{tile_values_, x, step};
    const T *query[R], *grad[R];
    T *weight[R], *grad_logit[R];
    for (int r = 0; r < R; ++r) {
      query[r] = queries().row(y + r) + x;
      grad[r] = grads().row(y + r) + x;
      weight[r] = weights().row(y + r) + x;
      grad_logit[r] = grad_logits().row(y + r) + x;
    }
    tile_logits<T, L, K, R>(query, keys, shape_.head_dim, relative(), place, terms_, logits_);
    score<T, L, K, R>(grad, values, shape_.value_dim, static_cast<const T*>(nullptr), k, products_);
    const bool whole = x + L <= shape_.width && !(place.mask && place.at_border(R, L));
    for (int r = 0; r < R; ++r) {
      const T* logsumexp = logsumexp_ + r * step + x;
      if (whole) {
        differentiate_softmax<L, R, true>(place, r, logsumexp, weight[r], grad_logit[r]);
      } else {
        differentiate_softmax<L, R, false>(place, r, logsumexp, weight[r], grad_logit[r]);
      }
    }
    grad_of_query<L, R>(x, grad_logit, keys);
    if (call_.rel_row) grad_of_relative<L, R>(query);
  }

  // Write p and ds of row r of a tile to the ring buffers, and the sums of ds over rows and over columns of the window
  // in place of the relative terms. Lanes outside the map and masked keys become zero; a WHOLE tile has neither.
  template <int L, int R, bool WHOLE>
  SASA_INLINE void differentiate_softmax(const TilePlace& place, int64_t r, const T* logsumexp, T* weight,
                                         T* grad_logit) {
    using V = Vec<T, L>;
    const int64_t k = K > 0 ? K : window_, step = layout_.step;
    T *logits = logits_ + r * k * k * L, *products = products_ + r * k * k * L;
    T *row_terms = terms_ + r * k * L, *column_terms = terms_ + (R + r) * k * L;
    const V lse = load<T, L>(logsumexp);
    V delta = {}, sum = {};
    for (int64_t a = 0; a < k; ++a) {
      const V shift = load<T, L>(row_terms + a * L) - lse;
#pragma GCC unroll 16
      for (int64_t c = 0; c < k; ++c) {
        T* logit = logits + (a * k + c) * L;
        const V p = exp2_negative<T, L>(load<T, L>(logit) + shift);
        sum += p;
        delta += p * load<T, L>(products + (a * k + c) * L);
        store<T, L>(logit, p);
      }
    }
    // The sum differs from 1 by the rounding of logits and log-sum-exp, an error that all gradients would share: hence
    // the division. Where the sum is NaN, weights that are 0 must stay 0.
    const V inverse = sum == sum ? static_cast<T>(1) / sum : splat<T, L>(1);
    delta *= inverse;
    const Vec<IntFor<T>, L> lanes_inside = columns_inside<T, L>(place.x, place.width);
    for (int64_t a = 0; a < k; ++a) {
      V row = {};
#pragma GCC unroll 16
      for (int64_t c = 0; c < k; ++c) {
        const int64_t o = a * k + c;
        V p = load<T, L>(logits + o * L) * inverse;
        V ds = p * (load<T, L>(products + o * L) - delta);
        if constexpr (!WHOLE) {
          const Vec<IntFor<T>, L> in = place.mask ? lanes_inside & place.inside<T, L>(r, a, c) : lanes_inside;
          p = in ? p : V{};
          ds = in ? ds : V{};
        }
        store<T, L>(weight + o * step, p);
        store<T, L>(grad_logit + o * step, ds);
        row += ds;
        T* column = column_terms + c * L;
        store<T, L>(column, a ? load<T, L>(column) + ds : ds);
      }
      store<T, L>(row_terms + a * L, row);
    }
  }

  // dq = scale sum ds (k + r)
  template <int L, int R>
  SASA_INLINE void grad_of_query(int64_t x, T* const (&grad_logit)[R], const Rows<T>& keys) {
    int64_t d = 0;
    for (; d + kChannels <= shape_.head_dim; d += kChannels) grad_of_channels<L, R, kChannels>(x, d, grad_logit, keys);
    for (; d < shape_.head_dim; ++d) grad_of_channels<L, R, 1>(x, d, grad_logit, keys);
  }

  template <int L, int R, int N>
  SASA_INLINE void grad_of_channels(int64_t x, int64_t first, T* const (&grad_logit)[R], const Rows<T>& keys) {
    const int64_t k = K > 0 ? K : window_, step = layout_.step;
    Vec<T, L> acc[R][N] = {};
    auto weight = [&](int64_t r, int64_t j, int64_t c)
                      __attribute__((always_inline)) { return grad_logit[r] + ((j - r) * k + c) * step; };
    if (keys.first) weighted_sum<T, L, N, K, R>(weight, keys, 0, R + k - 1, k, first, acc);
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n) {
        if (call_.rel_row) acc[r][n] += relative_part<L, R>(r, first + n);
        store<T, L>(result_row(r, shape_.head_dim) + (first + n) * step + x, acc[r][n] * static_cast<T>(shape_.scale));
      }
  }

  // sum over offsets o of (sum of ds over the other axis) * embedding[o], for channel d of the head.
  template <int L, int R>
  SASA_INLINE Vec<T, L> relative_part(int64_t r, int64_t d) {
    const int64_t k = K > 0 ? K : window_, half = shape_.head_dim / 2;
    const T* embedding = relative_ + d * k;  // of rows in the first half of the channels, else of columns
    const T* sums = terms_ + ((d < half ? 0 : R) + r) * k * L;
    Vec<T, L> part = {};
    for (int64_t o = 0; o < k; ++o) part += load<T, L>(sums + o * L) * embedding[o];
    return part;
  }

  template <int L, int R>
  SASA_INLINE void grad_of_relative(const T* const (&query)[R]) {
    const int64_t k = K > 0 ? K : window_, half = shape_.head_dim / 2;
    for (int64_t d = 0; d < shape_.head_dim; ++d) {
      Vec<T, L> q[R];
      for (int r = 0; r < R; ++r) q[r] = load<T, L>(query[r] + d * layout_.step);
      const T* sums = terms_ + (d < half ? 0 : R) * k * L;
      for (int64_t o = 0; o < k; ++o) {
        T* total = grad_relative_ + (d * k + o) * kLanes<T>;
        Vec<T, L> sum = load<T, L>(total);
        for (int r = 0; r < R; ++r) sum += load<T, L>(sums + (r * k + o) * L) * q[r];
        store<T, L>(total, sum);
      }
    }
  }

  // dk and dv of rows of keys from `y` on whose queries are all done (`ready` rows). Returns the first row left to do.
  int64_t gather(int64_t b, int64_t head, int64_t y, int64_t ready) {
    const Gather key{grad_logits(), queries(), call_.grad_key, shape_.head_dim, static_cast<T>(kLn2)};
    const Gather value{weights(), grads(), call_.grad_value, shape_.value_dim, 1};
    while (y < ready) {
      // Tiles of fewer rows only at the end of the map.
      const int64_t rows = tile_rows<K>((ready == shape_.height ? ready : y + kRows<K>)-y, window_);
      if (y + rows > ready) break;
      if (call_.key.data) gather_rows(b, head, y, rows, key);
      gather_rows(b, head, y, rows, value);
      y += rows;
    }
    return y;
  }

  // For each key, factor * sum over the queries that see it of weights * sources.
  struct Gather {
    RowRing<T> weights, sources;
    const Map& to;
    int64_t channels;
    T factor;
  };

  void gather_rows(int64_t b, int64_t head, int64_t y, int64_t rows, const Gather& work) {
    const int64_t seen = rows + window_ - 1, channels = work.channels;
    work.weights.window_rows(y - half_, seen, shape_.height, half_, tile_keys_);
    work.sources.window_rows(y - half_, seen, shape_.height, half_, tile_values_);
    const int64_t begin = y < half_ ? half_ - y : 0;
    const int64_t outside = y + rows + half_ - shape_.height, end = seen - (outside > 0 ? outside : 0);
    each_tile<T, K>(shape_.width, rows, [&](int64_t x, auto lanes, auto tile_rows) {
      constexpr int L = decltype(lanes)::value, R = decltype(tile_rows)::value;
      int64_t c = 0;
      for (; c + kChannels <= channels; c += kChannels) gather_tile<L, R, kChannels>(x, begin, end, c, work);
      for (; c < channels; ++c) gather_tile<L, R, 1>(x, begin, end, c, work);
    });
    for (int64_t r = 0; r < rows; ++r)
      io_.unpack(result_row(r, channels), layout_.step, {work.to, b, head * channels, channels, y + r, shape_.width});
  }

  // A key at offset (a, c) from a query: seen from the key, the query is at the opposite offset.
  template <int L, int R, int N>
  SASA_INLINE void gather_tile(int64_t x, int64_t begin, int64_t end, int64_t first, const Gather& work) {
    const int64_t k = K > 0 ? K : window_, step = layout_.step;
    const Rows<T> weights{tile_keys_, x, step}, sources{tile_values_, x, step};
    Vec<T, L> acc[R][N] = {};
    auto weight = [&](int64_t r, int64_t j, int64_t c) __attribute__((always_inline)) {
      return weights[j] + ((k - 1 - (j - r)) * k + k - 1 - c) * step + c;
    };
    weighted_sum<T, L, N, K, R>(weight, sources, begin, end, k, first, acc);
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n)
        store<T, L>(result_row(r, work.channels) + (first + n) * step + x, acc[r][n] * work.factor);
  }

  const LocalBackward& call_;
  const LocalShape& shape_;
  const RowAccess<T> io_;
  const int64_t window_, half_, slots_;
  const RowLayout layout_;
  T *keys_, *values_, *queries_, *grads_, *weights_, *grad_logits_, *results_, *logsumexp_, *logits_, *products_,
      *terms_;
  T *relative_, *grad_relative_;
  const T **tile_keys_, **tile_values_;
};

template <class T>
void local_backward_as(const LocalBackward& call, const sasa::Parallel& threads) {
  with_window<T>(call.shape.window, [&](auto window) {
    parallel(threads, call.shape.batch * call.shape.heads, [&](int64_t first, int64_t last) {
      LocalBackwardTask<T, decltype(window)::value> task(call);
      for (int64_t i = first; i < last; ++i) task.run(i / call.shape.heads, i % call.shape.heads);
    });
  });
}

}  // namespace
