// Tests of attention inside blocks: forward to a map or to its pooled results, backward from either.
#pragma once
#include "judge.h"
#include "naive.h"

namespace {

using sasa::BlockBackward;
using sasa::BlockForward;
using sasa::Kernels;

struct BlockCase {
  int64_t batch, channels, heads, head_dim, value_dim, height, width, block;
};
const BlockCase block_cases[] = {
    {2, 3, 2, 4, 4, 8, 12, 4}, {1, 3, 1, 4, 3, 7, 11, 4}, {2, 5, 1, 4, 2, 1, 9, 3}, {2, 3, 3, 2, 5, 9, 1, 2},
    {1, 3, 2, 4, 2, 3, 2, 5},  {1, 4, 2, 4, 4, 1, 1, 4},  {2, 3, 2, 4, 4, 5, 3, 1}, {1, 2, 2, 2, 8, 19, 37, 2},
    {1, 3, 1, 2, 1, 5, 41, 2}, {1, 1, 1, 2, 4, 33, 5, 4},
};

// One case: its tensors and the expected results.
struct BlockTest {
  const Kernels& table;
  NaiveBlock naive;
  const BlockShape& s = naive.s;
  Judge& judge;
  Storage storage = s.storage, compute = compute_type(storage);
  Layout layout;
  sasa::Parallel pool;
  Random random;
  int64_t Q = s.heads * s.head_dim, V = s.heads * s.value_dim;
  int64_t down = (s.height + s.block - 1) / s.block, across = (s.width + s.block - 1) / s.block;
  int64_t strips = s.batch * block_strips(s);
  TestMap image, value;
  Array w_query, w_key, matrices, row, col, sign;
  std::vector<uint8_t> positions;

  BlockTest(const Kernels& table, const BlockShape& shape, Judge& judge, int number, Terms terms, bool value_given)
      : table(table),
        naive(shape),
        judge(judge),
        layout(static_cast<Layout>(number % kLayouts)),
        pool(pool_of(static_cast<Order>(number % kOrders))),
        random(static_cast<uint64_t>(number) + 1000),
        image(filled(s.channels, s.height, s.width)),
        value(value_given ? filled(V, s.height, s.width) : TestMap()),
        w_query(parameter(Q * s.channels)),
        w_key(parameter(terms == relative_only ? 0 : Q * s.channels)),
        matrices(parameter(value_given ? 0 : s.block * s.block * V * s.channels)),
        row(parameter(terms == content_only ? 0 : s.heads * (2 * s.block - 1) * (s.head_dim / 2))),
        col(parameter(terms == content_only ? 0 : s.heads * (2 * s.block - 1) * (s.head_dim / 2))),
        sign(parameter(V)),
        positions(static_cast<size_t>(s.batch * V * down * across), 255) {
    naive.image = image.numbers(), naive.value = value.numbers();
    naive.w_query = w_query.numbers(), naive.w_key = w_key.numbers(), naive.matrices = matrices.numbers();
    naive.row = row.numbers(), naive.col = col.numbers();
    naive.forward(sign.numbers());
  }

  TestMap empty(int64_t channels, int64_t H, int64_t W) { return {s.batch, channels, H, W, storage, layout}; }
  TestMap filled(int64_t channels, int64_t H, int64_t W) {
    return {random.many(s.batch * channels * H * W), s.batch, channels, H, W, storage, layout};
  }
  Array parameter(int64_t count) { return {random.many(count), compute}; }
  Map position() { return {positions.data(), {V * down * across, down * across, across, 1}}; }

  template <class Call>  // BlockForward or BlockBackward
  Call make_call() {
    Call call = {};
    call.shape = s;
    call.image = image.map(), call.value = value.map();
    call.w_query = w_query.data(), call.w_key = w_key.data(), call.w_value = matrices.data();
    call.rel_row = row.data(), call.rel_col = col.data();
    return call;
  }

  void forward() {
    auto call = make_call<BlockForward>();
    TestMap output = empty(V, s.height, s.width);
    Array logsumexp(s.batch * s.heads * s.height * s.width, compute);
    call.output = output.map(), call.logsumexp = logsumexp.data();
    table.block_forward(call, pool);
    judge.result("output", output, naive.output, norm(naive.image));
    judge.result("log-sum-exp", logsumexp, naive.logsumexp, norm(naive.image));
    judge.scratch_memory();
  }

  void forward_pooled() {
    auto call = make_call<BlockForward>();
    TestMap extreme = empty(V, down, across);
    Array sums(strips * 2 * V, Storage::float64);
    call.extreme = extreme.map(), call.position = position(), call.sign = sign.data();
    call.sums = static_cast<double*>(sums.data());
    table.block_forward(call, pool);
    judge.result("extreme", extreme, naive.extreme, norm(naive.image));
    judge.compare("sums", sum_parts(sums.numbers(), strips), naive.sums, norm(naive.image));
    judge.compare("positions", Numbers(positions.begin(), positions.end()),
                  {naive.positions.begin(), naive.positions.end()}, 1);
    judge.margins("sums", sums);
    judge.scratch_memory();
  }

  void backward(bool pooled, bool image_gradient) {
    auto call = make_call<BlockBackward>();
    TestMap grad = pooled ? filled(V, down, across) : filled(V, s.height, s.width);
    Array grad_sums(random.many(2 * V), Storage::float64);
    Numbers grad_output = pooled ? naive.grad_of_pooled(grad.numbers(), grad_sums.numbers()) : grad.numbers();
    if (pooled) {
      call.grad_extreme = grad.map(), call.position = position();
      call.grad_sums = static_cast<const double*>(grad_sums.data());
    } else {
      call.grad_output = grad.map();
    }
    naive.backward(grad_output);

    auto gradient = [&](const Numbers& of) { return Array(strips * static_cast<int64_t>(of.size()), compute); };
    TestMap grad_image = image_gradient ? empty(s.channels, s.height, s.width) : TestMap();
    TestMap grad_value = naive.value.empty() ? TestMap() : empty(V, s.height, s.width);
    Array grads[] = {gradient(naive.w_query), gradient(naive.w_key), gradient(naive.matrices), gradient(naive.row),
                     gradient(naive.col)};
    call.grad_image = grad_image.map(), call.grad_value = grad_value.map();
    call.grad_w_query = grads[0].data(), call.grad_w_key = grads[1].data(), call.grad_w_value = grads[2].data();
    call.grad_row = grads[3].data(), call.grad_col = grads[4].data();
    table.block_backward(call, pool);

    const double size = norm(grad_output);
    if (image_gradient) judge.result("grad of image", grad_image, naive.grad_image, size);
    judge.result("grad of value", grad_value, naive.grad_value, size);
    const char* const names[] = {"grad of W_Q", "grad of W_K", "grad of W_V", "grad of rows", "grad of columns"};
    const Numbers* const expected[] = {&naive.grad_query, &naive.grad_key, &naive.grad_matrices, &naive.grad_row,
                                       &naive.grad_col};
    for (int i = 0; i < 5; ++i) {
      judge.compare(names[i], sum_parts(grads[i].numbers(), strips), *expected[i], size);
      judge.margins(names[i], grads[i]);
    }
    judge.scratch_memory();
  }
};

void test_block(const Kernels& table, const BlockCase& c, Storage storage, int number, Judge& judge) {
  const Terms terms = static_cast<Terms>(number / 2 % kTerms);
  const bool value_given = number % 4 == 1;
  const BlockShape shape = {c.batch,    c.channels,  c.height, c.width, c.heads,
                            c.head_dim, c.value_dim, c.block,  0.7,     storage};
  judge.begin(
      describe("block", table.name, {c.batch, c.channels, c.heads, c.head_dim, c.value_dim, c.height, c.width, c.block},
               static_cast<Layout>(number % kLayouts), terms),
      storage);
  BlockTest test(table, shape, judge, number, terms, value_given);
  if (table.block_forward) test.forward(), test.forward_pooled();
  test.positions = test.naive.positions;
  if (table.block_backward) test.backward(false, number % 3 != 0), test.backward(true, number % 3 != 0);
}

}  // namespace
