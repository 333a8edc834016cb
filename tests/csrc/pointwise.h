// Tests of the gradient of the weights of 1 x 1 convolutions.
#pragma once
#include "judge.h"

namespace {

struct PointwiseCase {
  int64_t pixels, out_channels, in_channels;
};
const PointwiseCase pointwise_cases[] = {{13, 5, 3},    {1, 1, 1},      {128, 12, 32}, {129, 25, 65},
                                         {300, 70, 33}, {40, 300, 270}, {4500, 6, 40}};

void test_pointwise(const sasa::Kernels& table, const PointwiseCase& c, int number, Judge& judge) {
  if (!table.pointwise_gradient) return;
  const Storage f = Storage::float32;
  Random random(static_cast<uint64_t>(number));
  Array grad(random.many(c.pixels * c.out_channels), f), x(random.many(c.pixels * c.in_channels), f);
  const Numbers grads = grad.numbers(), numbers = x.numbers();
  Numbers expected(static_cast<size_t>(c.out_channels * c.in_channels));
  for (int64_t p = 0; p < c.pixels; ++p)
    for (int64_t o = 0; o < c.out_channels; ++o)
      for (int64_t i = 0; i < c.in_channels; ++i)
        expected[static_cast<size_t>(o * c.in_channels + i)] +=
            grads[static_cast<size_t>(p * c.out_channels + o)] * numbers[static_cast<size_t>(p * c.in_channels + i)];
  const int64_t number_of_parts = sasa::pointwise_parts(c.pixels);
  Array parts(number_of_parts * c.out_channels * c.in_channels, f);
  judge.begin(describe("pointwise gradient", table.name, {c.pixels, c.out_channels, c.in_channels}), f);
  table.pointwise_gradient({static_cast<float*>(grad.data()), static_cast<float*>(x.data()),
                            static_cast<float*>(parts.data()), c.pixels, c.out_channels, c.in_channels},
                           pool_of(static_cast<Order>(number % kOrders)));
  judge.compare("result", sum_parts(parts.numbers(), number_of_parts), expected, 1);
  judge.margins("parts", parts);
  judge.scratch_memory();
}

}  // namespace
