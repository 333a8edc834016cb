// Tests of the operators between convolutions: the affine map in place, and batch norm in training.
#pragma once
#include "judge.h"

namespace {

using sasa::Kernels;

// Numbers with a mean and a scale that a norm has to remove.
Numbers scaled_and_shifted(Numbers numbers, double factor, double offset) {
  for (double& number : numbers) number = factor * number + offset;
  return numbers;
}

struct AffineCase {
  int64_t outer, channels, inner;
};
const AffineCase affine_cases[] = {{7, 5, 1},  {3, 37, 1}, {150, 64, 1}, {2, 3, 45},
                                   {1, 5, 16}, {2, 4, 7},  {9000, 1, 1}};

void test_affine(const Kernels& table, const AffineCase& c, Storage storage, int number, Judge& judge) {
  if (!table.affine) return;
  Random random(static_cast<uint64_t>(number));
  const int64_t count = c.outer * c.channels * c.inner;
  const bool with_residual = number % 2 == 0, relu = number % 4 < 2;
  Array x(random.many(count), storage), residual(random.many(with_residual ? count : 0), storage);
  Array gain(random.many(c.channels), compute_type(storage)), shift(random.many(c.channels), compute_type(storage));
  const Numbers before = x.numbers(), shortcut = residual.numbers(), gains = gain.numbers(), shifts = shift.numbers();
  Numbers expected = before;
  for (size_t i = 0; i < expected.size(); ++i) {
    const size_t channel = i / static_cast<size_t>(c.inner) % static_cast<size_t>(c.channels);
    expected[i] = expected[i] * gains[channel] + shifts[channel] + (with_residual ? shortcut[i] : 0);
    if (relu && expected[i] < 0) expected[i] = 0;
  }
  judge.begin(describe("affine", table.name, {c.outer, c.channels, c.inner}), storage);
  table.affine({x.data(), residual.data(), gain.data(), shift.data(), c.outer, c.channels, c.inner, relu, storage},
               pool_of(static_cast<Order>(number % kOrders)));
  judge.result("result", x, expected, norm(before));
}

struct NormCase {
  int64_t pixels, channels;
};
const NormCase norm_cases[] = {{13, 5}, {40, 16}, {33, 70}, {3000, 33}, {7, 200}};

// y = relu((x - mean) / sqrt(variance + eps) * weight + bias + residual), and its derivatives.
struct NaiveNorm {
  int64_t pixels, channels;
  double eps;
  bool relu;
  Numbers x, weight, bias, residual;

  Numbers y, mean, variance;
  Numbers grad_x, grad_weight, grad_bias, grad_residual;

  size_t at(int64_t pixel, int64_t c) const { return static_cast<size_t>(pixel * channels + c); }
  double scaled(int64_t pixel, size_t c) const {
    return (x[at(pixel, static_cast<int64_t>(c))] - mean[c]) / std::sqrt(variance[c] + eps);
  }

  void forward() {
    y.resize(x.size()), mean.assign(weight.size(), 0), variance.assign(weight.size(), 0);
    for (size_t c = 0; c < weight.size(); ++c) {
      const int64_t channel = static_cast<int64_t>(c);
      const double count = static_cast<double>(pixels);
      for (int64_t p = 0; p < pixels; ++p) mean[c] += x[at(p, channel)] / count;
      for (int64_t p = 0; p < pixels; ++p) variance[c] += std::pow(x[at(p, channel)] - mean[c], 2) / count;
      for (int64_t p = 0; p < pixels; ++p) {
        const size_t i = at(p, channel);
        const double sum = scaled(p, c) * weight[c] + bias[c] + (residual.empty() ? 0 : residual[i]);
        y[i] = relu && sum < 0 ? 0 : sum;
      }
    }
  }

  void backward(Numbers grad) {
    grad_x.resize(x.size()), grad_weight.assign(weight.size(), 0), grad_bias.assign(weight.size(), 0);
    for (size_t i = 0; i < grad.size(); ++i)
      if (relu && y[i] <= 0) grad[i] = 0;
    if (!residual.empty() && relu) grad_residual = grad;
    for (size_t c = 0; c < weight.size(); ++c) {
      const int64_t channel = static_cast<int64_t>(c);
      for (int64_t p = 0; p < pixels; ++p) {
        grad_bias[c] += grad[at(p, channel)];
        grad_weight[c] += grad[at(p, channel)] * scaled(p, c);
      }
      for (int64_t p = 0; p < pixels; ++p) {
        const double shared = (grad_bias[c] + scaled(p, c) * grad_weight[c]) / static_cast<double>(pixels);
        grad_x[at(p, channel)] = weight[c] / std::sqrt(variance[c] + eps) * (grad[at(p, channel)] - shared);
      }
    }
  }
};

void test_norm(const Kernels& table, const NormCase& c, int number, Judge& judge) {
  const Storage f = Storage::float32;
  const sasa::Parallel pool = pool_of(static_cast<Order>(number % kOrders));
  const bool with_residual = number % 2 == 0, relu = number % 4 < 2;
  const int64_t count = c.pixels * c.channels;
  Random random(static_cast<uint64_t>(number));
  Array x(scaled_and_shifted(random.many(count), 2, 5), f), residual(random.many(with_residual ? count : 0), f),
      grad(random.many(count), f);
  Array weight(random.many(c.channels), f), bias(random.many(c.channels), f);
  NaiveNorm naive = {
      c.pixels, c.channels, 1e-5, relu, x.numbers(), weight.numbers(), bias.numbers(), residual.numbers(), {}, {},
      {},       {},         {},   {},   {}};
  naive.forward();
  auto floats = [](Array& array) { return static_cast<float*>(array.data()); };
  judge.begin(describe("norm", table.name, {c.pixels, c.channels, with_residual, relu}), f);
  if (table.norm_forward) {
    Array y(count, f), mean(c.channels, f), variance(c.channels, f), parts(sasa::norm_parts(c.pixels, c.channels), f);
    table.norm_forward({floats(x), floats(residual), floats(weight), floats(bias), floats(y), floats(mean),
                        floats(variance), floats(parts), c.pixels, c.channels, 1e-5, relu},
                       pool);
    judge.result("y", y, naive.y, 1);
    judge.result("mean", mean, naive.mean, 1);
    judge.result("variance", variance, naive.variance, 1);
    judge.margins("parts", parts);
  }
  if (!table.norm_backward) return;
  naive.backward(grad.numbers());
  Array y(with_residual ? naive.y : Numbers(), f), mean(naive.mean, f), variance(naive.variance, f);
  Array grad_x(count, f), grad_residual(with_residual && relu ? count : 0, f), grad_weight(c.channels, f);
  Array grad_bias(c.channels, f), parts(sasa::norm_parts(c.pixels, c.channels), f);
  table.norm_backward(
      {floats(grad), floats(x), floats(y), floats(weight), floats(bias), floats(mean), floats(variance), floats(grad_x),
       floats(grad_residual), floats(grad_weight), floats(grad_bias), floats(parts), c.pixels, c.channels, 1e-5, relu},
      pool);
  const double size = norm(grad.numbers());
  judge.result("grad of x", grad_x, naive.grad_x, size);
  judge.result("grad of weight", grad_weight, naive.grad_weight, size);
  judge.result("grad of bias", grad_bias, naive.grad_bias, size);
  judge.result("grad of residual", grad_residual, naive.grad_residual, size);
  judge.margins("parts", parts);
}

}  // namespace
