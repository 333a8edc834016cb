// The expected results: the equations as loops over pixels, heads and window positions, in double. Maps are dense,
// (B, C, H, W).
#pragma once
#include "maps.h"

namespace {

using sasa::BlockShape;
using sasa::LocalShape;

struct MapSize {
  int64_t C, H, W;
};

double& at(Numbers& map, const MapSize& size, int64_t b, int64_t c, int64_t y, int64_t x) {
  return map[static_cast<size_t>(((b * size.C + c) * size.H + y) * size.W + x)];
}

// Logits to weights in place, 0 where `hidden`. Returns the log-sum-exp.
double softmax(Numbers& logits, const std::vector<bool>& hidden) {
  double maximum = -INFINITY, sum = 0;
  for (size_t i = 0; i < logits.size(); ++i)
    if (!hidden[i]) maximum = std::max(maximum, logits[i]);
  for (size_t i = 0; i < logits.size(); ++i) sum += logits[i] = hidden[i] ? 0 : std::exp(logits[i] - maximum);
  for (double& weight : logits) weight /= sum;
  return maximum + std::log(sum);
}

// dp to ds in place: ds = p (dp - sum p dp).
void differentiate_softmax(const Numbers& weights, Numbers& grads) {
  double delta = 0;
  for (size_t i = 0; i < grads.size(); ++i) delta += weights[i] * grads[i];
  for (size_t i = 0; i < grads.size(); ++i) grads[i] = weights[i] * (grads[i] - delta);
}

// Call f(image, head, y, x) for every query.
template <class Shape, class F>
void each_query(const Shape& s, F&& f) {
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t n = 0; n < s.heads; ++n)
      for (int64_t y = 0; y < s.height; ++y)
        for (int64_t x = 0; x < s.width; ++x) f(b, n, y, x);
}

// ---------------------------------------------------------------------------------------------------- local attention

// Eq. 3 and its derivatives. `key` is empty without content, `row` and `col` without relative positions.
struct NaiveLocal {
  LocalShape s;
  Numbers query, key, value, row, col;

  Numbers output, logsumexp;
  Numbers grad_query, grad_key, grad_value, grad_row, grad_col;

  explicit NaiveLocal(const LocalShape& shape) : s(shape) {}

  double& q(Numbers& map, int64_t b, int64_t c, int64_t y, int64_t x) {
    return at(map, {s.heads * s.head_dim, s.height, s.width}, b, c, y, x);
  }
  double& v(Numbers& map, int64_t b, int64_t c, int64_t y, int64_t x) {
    return at(map, {s.heads * s.value_dim, s.height, s.width}, b, c, y, x);
  }
  bool inside(int64_t y, int64_t x) const { return y >= 0 && y < s.height && x >= 0 && x < s.width; }
  // The index in `row` or `col` of channel d of head n at an offset of the window.
  size_t relative(int64_t n, int64_t d, int64_t offset) const {
    const int64_t half = s.head_dim / 2;
    return static_cast<size_t>((n * s.window + offset) * half + d % half);
  }

  Numbers weights(int64_t b, int64_t n, int64_t y, int64_t x, double* logsumexp) {
    const int64_t K = s.window;
    Numbers logits(static_cast<size_t>(K * K));
    std::vector<bool> hidden(logits.size());
    for (int64_t u = 0; u < K; ++u)
      for (int64_t w = 0; w < K; ++w) {
        const int64_t ky = y + u - K / 2, kx = x + w - K / 2;
        double logit = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) {
          const double channel = q(query, b, n * s.head_dim + d, y, x);
          if (!key.empty() && inside(ky, kx)) logit += channel * q(key, b, n * s.head_dim + d, ky, kx);
          if (!row.empty()) logit += channel * (2 * d < s.head_dim ? row[relative(n, d, u)] : col[relative(n, d, w)]);
        }
        logits[static_cast<size_t>(u * K + w)] = s.scale * logit;
        hidden[static_cast<size_t>(u * K + w)] = s.mask && !inside(ky, kx);
      }
    *logsumexp = softmax(logits, hidden);
    return logits;
  }

  void forward() {
    const int64_t K = s.window;
    output.assign(value.size(), 0);
    each_query(s, [&](int64_t b, int64_t n, int64_t y, int64_t x) {
      double sum;
      const Numbers p = weights(b, n, y, x, &sum);
      logsumexp.push_back(sum);
      for (int64_t o = 0; o < K * K; ++o) {
        const int64_t ky = y + o / K - K / 2, kx = x + o % K - K / 2;
        for (int64_t e = n * s.value_dim; inside(ky, kx) && e < (n + 1) * s.value_dim; ++e)
          v(output, b, e, y, x) += p[static_cast<size_t>(o)] * v(value, b, e, ky, kx);
      }
    });
  }

  // grad_row and grad_col are those of each image: (B, N, K, D / 2).
  void backward(Numbers& grad) {
    const int64_t K = s.window;
    grad_query.assign(query.size(), 0), grad_key.assign(key.size(), 0), grad_value.assign(value.size(), 0);
    grad_row.assign(row.size() * static_cast<size_t>(s.batch), 0), grad_col = grad_row;
    each_query(s, [&](int64_t b, int64_t n, int64_t y, int64_t x) {
      double sum;
      const Numbers p = weights(b, n, y, x, &sum);
      Numbers grad_logits(p.size());
      for (int64_t o = 0; o < K * K; ++o) {
        const int64_t ky = y + o / K - K / 2, kx = x + o % K - K / 2;
        for (int64_t e = n * s.value_dim; inside(ky, kx) && e < (n + 1) * s.value_dim; ++e) {
          grad_logits[static_cast<size_t>(o)] += v(grad, b, e, y, x) * v(value, b, e, ky, kx);
          v(grad_value, b, e, ky, kx) += p[static_cast<size_t>(o)] * v(grad, b, e, y, x);
        }
      }
      differentiate_softmax(p, grad_logits);
      for (int64_t o = 0; o < K * K; ++o)
        grad_of_logit(b, n, y, x, o / K, o % K, s.scale * grad_logits[static_cast<size_t>(o)]);
    });
  }

  void grad_of_logit(int64_t b, int64_t n, int64_t y, int64_t x, int64_t u, int64_t w, double grad_logit) {
    const int64_t ky = y + u - s.window / 2, kx = x + w - s.window / 2;
    for (int64_t d = 0; d < s.head_dim; ++d) {
      const int64_t c = n * s.head_dim + d;
      if (!key.empty() && inside(ky, kx)) {
        q(grad_query, b, c, y, x) += grad_logit * q(key, b, c, ky, kx);
        q(grad_key, b, c, ky, kx) += grad_logit * q(query, b, c, y, x);
      }
      if (row.empty()) continue;
      const bool rows = 2 * d < s.head_dim;
      const size_t i = relative(n, d, rows ? u : w);
      q(grad_query, b, c, y, x) += grad_logit * (rows ? row : col)[i];
      (rows ? grad_row : grad_col)[static_cast<size_t>(b) * row.size() + i] += grad_logit * q(query, b, c, y, x);
    }
  }

  // The output after mean pooling, a gain and a shift for each channel, and ReLU.
  Numbers with_epilogue(int64_t pool, const Numbers& gain, const Numbers& shift, bool relu) {
    Numbers all;
    const int64_t channels = s.heads * s.value_dim;
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t y = 0; y < s.height; y += pool)
          for (int64_t x = 0; x < s.width; x += pool) {
            double sum = 0, count = 0;
            for (int64_t i = y; i < std::min(y + pool, s.height); ++i)
              for (int64_t j = x; j < std::min(x + pool, s.width); ++j) sum += v(output, b, c, i, j), ++count;
            double result = sum / count;
            if (!gain.empty()) result *= gain[static_cast<size_t>(c)];
            if (!shift.empty()) result += shift[static_cast<size_t>(c)];
            all.push_back(relu && result < 0 ? 0 : result);
          }
    return all;
  }
};

// ---------------------------------------------------------------------------------------------------- block attention

// Eq. 7-8 with relative positions. Either `matrices` (P, N * E, C) or `value` (a map) is empty; `w_key` is empty
// without content, `row` and `col` without relative positions.
struct NaiveBlock {
  BlockShape s;
  Numbers image, w_query, w_key, matrices, row, col, value;

  Numbers output, logsumexp, extreme, sums;  // sums: (2, N * E)
  std::vector<uint8_t> positions;            // of the extremes in their blocks
  Numbers grad_image, grad_query, grad_key, grad_matrices, grad_row, grad_col, grad_value;

  explicit NaiveBlock(const BlockShape& shape) : s(shape) {}
  int64_t values() const { return s.heads * s.value_dim; }
  double& pixel(Numbers& map, int64_t C, int64_t b, int64_t c, int64_t y, int64_t x) {
    return at(map, {C, s.height, s.width}, b, c, y, x);
  }
  double product(const Numbers& matrix, int64_t first, int64_t b, int64_t y, int64_t x) {
    double sum = 0;
    for (int64_t c = 0; c < s.channels; ++c)
      sum += matrix[static_cast<size_t>(first * s.channels + c)] * pixel(image, s.channels, b, c, y, x);
    return sum;
  }
  // Add factor * x to a row of the gradient of a matrix, and factor * the row to the gradient of the pixel.
  void grad_of_product(const Numbers& matrix, Numbers& grad, int64_t first, int64_t b, int64_t y, int64_t x,
                       double factor) {
    for (int64_t c = 0; c < s.channels; ++c) {
      const size_t i = static_cast<size_t>(first * s.channels + c);
      grad[i] += factor * pixel(image, s.channels, b, c, y, x);
      pixel(grad_image, s.channels, b, c, y, x) += factor * matrix[i];
    }
  }
  size_t relative(int64_t n, int64_t d, int64_t offset) const {
    const int64_t half = s.head_dim / 2;
    return static_cast<size_t>((n * (2 * s.block - 1) + offset + s.block - 1) * half + d % half);
  }
  // The value of channel e at pixel (y, x), position p of its block.
  double value_at(int64_t b, int64_t e, int64_t p, int64_t y, int64_t x) {
    return value.empty() ? product(matrices, p * values() + e, b, y, x) : pixel(value, values(), b, e, y, x);
  }

  Numbers weights(int64_t b, int64_t n, int64_t y, int64_t x, double* logsumexp) {
    const int64_t S = s.block, D = s.head_dim, top = y - y % S, left = x - x % S;
    Numbers logits(static_cast<size_t>(S * S));
    std::vector<bool> hidden(logits.size());
    for (int64_t p = 0; p < S * S; ++p) {
      const int64_t ky = top + p / S, kx = left + p % S;
      hidden[static_cast<size_t>(p)] = ky >= s.height || kx >= s.width;
      if (hidden[static_cast<size_t>(p)]) continue;
      double logit = 0;
      for (int64_t d = 0; d < D; ++d) {
        const double channel = product(w_query, n * D + d, b, y, x);
        if (!w_key.empty()) logit += channel * product(w_key, n * D + d, b, ky, kx);
        if (!row.empty()) logit += channel * (2 * d < D ? row[relative(n, d, ky - y)] : col[relative(n, d, kx - x)]);
      }
      logits[static_cast<size_t>(p)] = s.scale * logit;
    }
    *logsumexp = softmax(logits, hidden);
    return logits;
  }
  // Call f(p, y, x) for the pixels of the block that contains (y, x).
  template <class F>
  void each_key(int64_t y, int64_t x, F&& f) {
    const int64_t S = s.block, top = y - y % S, left = x - x % S;
    for (int64_t p = 0; p < S * S; ++p)
      if (top + p / S < s.height && left + p % S < s.width) f(p, top + p / S, left + p % S);
  }

  void forward(const Numbers& sign) {
    const size_t channels = static_cast<size_t>(values());
    output.assign(static_cast<size_t>(s.batch * s.height * s.width) * channels, 0), sums.assign(2 * channels, 0);
    each_query(s, [&](int64_t b, int64_t n, int64_t y, int64_t x) {
      double sum;
      const Numbers p = weights(b, n, y, x, &sum);
      logsumexp.push_back(sum);
      for (int64_t e = n * s.value_dim; e < (n + 1) * s.value_dim; ++e) {
        double& result = pixel(output, values(), b, e, y, x);
        each_key(y, x, [&](int64_t o, int64_t ky, int64_t kx) {
          result += p[static_cast<size_t>(o)] * value_at(b, e, o, ky, kx);
        });
        sums[static_cast<size_t>(e)] += result, sums[channels + static_cast<size_t>(e)] += result * result;
      }
    });
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t e = 0; e < values(); ++e)
        for (int64_t y = 0; y < s.height; y += s.block)
          for (int64_t x = 0; x < s.width; x += s.block) {
            const double sign_of_channel = sign[static_cast<size_t>(e)] < 0 ? -1 : 1;
            double best = -INFINITY;
            int64_t position = 0;
            each_key(y, x, [&](int64_t p, int64_t ky, int64_t kx) {
              const double one = sign_of_channel * pixel(output, values(), b, e, ky, kx);
              if (one > best) best = one, position = p;
            });
            extreme.push_back(sign_of_channel * best);
            positions.push_back(static_cast<uint8_t>(position));
          }
  }

  // The gradient of the output, from those of the extremes and of the sums.
  Numbers grad_of_pooled(const Numbers& grad_extreme, const Numbers& grad_sums) {
    Numbers grad(output.size());
    const int64_t down = (s.height + s.block - 1) / s.block, across = (s.width + s.block - 1) / s.block;
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t e = 0; e < values(); ++e)
        for (int64_t y = 0; y < s.height; ++y)
          for (int64_t x = 0; x < s.width; ++x) {
            const int64_t block = ((b * values() + e) * down + y / s.block) * across + x / s.block;
            const bool here = positions[static_cast<size_t>(block)] == y % s.block * s.block + x % s.block;
            const double square = grad_sums[static_cast<size_t>(values() + e)];
            pixel(grad, values(), b, e, y, x) = grad_sums[static_cast<size_t>(e)] +
                                                2 * square * pixel(output, values(), b, e, y, x) +
                                                (here ? grad_extreme[static_cast<size_t>(block)] : 0);
          }
    return grad;
  }

  void backward(Numbers& grad) {
    grad_image.assign(image.size(), 0), grad_query.assign(w_query.size(), 0), grad_key.assign(w_key.size(), 0);
    grad_matrices.assign(matrices.size(), 0), grad_value.assign(value.size(), 0);
    grad_row.assign(row.size(), 0), grad_col.assign(col.size(), 0);
    each_query(s, [&](int64_t b, int64_t n, int64_t y, int64_t x) {
      double sum;
      const Numbers p = weights(b, n, y, x, &sum);
      Numbers grad_logits(p.size());
      each_key(y, x, [&](int64_t o, int64_t ky, int64_t kx) {
        for (int64_t e = n * s.value_dim; e < (n + 1) * s.value_dim; ++e) {
          const double dy = pixel(grad, values(), b, e, y, x), dv = p[static_cast<size_t>(o)] * dy;
          grad_logits[static_cast<size_t>(o)] += dy * value_at(b, e, o, ky, kx);
          if (!value.empty()) pixel(grad_value, values(), b, e, ky, kx) += dv;
          if (!matrices.empty()) grad_of_product(matrices, grad_matrices, o * values() + e, b, ky, kx, dv);
        }
      });
      differentiate_softmax(p, grad_logits);
      each_key(y, x, [&](int64_t o, int64_t ky, int64_t kx) {
        grad_of_logit(b, n, y, x, ky, kx, s.scale * grad_logits[static_cast<size_t>(o)]);
      });
    });
  }

  void grad_of_logit(int64_t b, int64_t n, int64_t y, int64_t x, int64_t ky, int64_t kx, double grad_logit) {
    const int64_t D = s.head_dim;
    for (int64_t d = 0; d < D; ++d) {
      const double channel = product(w_query, n * D + d, b, y, x);
      double grad = 0;  // of the query's channel
      if (!w_key.empty()) {
        grad += grad_logit * product(w_key, n * D + d, b, ky, kx);
        grad_of_product(w_key, grad_key, n * D + d, b, ky, kx, grad_logit * channel);
      }
      if (!row.empty()) {
        const bool rows = 2 * d < D;
        const size_t i = relative(n, d, rows ? ky - y : kx - x);
        grad += grad_logit * (rows ? row : col)[i];
        (rows ? grad_row : grad_col)[i] += grad_logit * channel;
      }
      grad_of_product(w_query, grad_query, n * D + d, b, y, x, grad);
    }
  }
};

}  // namespace
