// Tests of local attention: forward as in training, forward with the fused epilogue of inference, backward.
#pragma once
#include "judge.h"
#include "naive.h"

namespace {

using sasa::Kernels;

struct LocalCase {
  int64_t batch, heads, head_dim, value_dim, height, width, window;
};
const LocalCase local_cases[] = {
    {2, 2, 4, 4, 7, 5, 3},    {1, 2, 8, 8, 5, 19, 7},  {1, 3, 6, 3, 4, 11, 5},  {2, 1, 2, 9, 1, 9, 5},
    {1, 4, 2, 5, 9, 1, 3},    {3, 2, 4, 2, 3, 2, 7},   {1, 2, 4, 4, 1, 1, 5},   {2, 2, 8, 8, 5, 9, 1},
    {1, 2, 4, 6, 8, 17, 9},   {1, 1, 8, 8, 6, 20, 11}, {1, 1, 16, 2, 4, 33, 7}, {1, 1, 4, 4, 5, 6, 13},
    {1, 2, 10, 12, 2, 40, 3}, {2, 8, 2, 2, 13, 8, 3},  {1, 1, 4, 4, 41, 5, 3},  {1, 2, 8, 8, 31, 6, 5},
};

// One case: its tensors and the expected results. `number` chooses layout, padding, terms and the order of tasks.
struct LocalTest {
  const Kernels& table;
  NaiveLocal naive;
  const LocalShape& s = naive.s;
  Judge& judge;
  const int number;
  const Storage storage = s.storage, compute = compute_type(storage);
  const Layout layout = static_cast<Layout>(number % kLayouts);
  const Terms terms = static_cast<Terms>(number / 2 % kTerms);
  const sasa::Parallel pool = pool_of(static_cast<Order>(number % kOrders));
  Random random{static_cast<uint64_t>(number)};
  const int64_t Q = s.heads * s.head_dim, V = s.heads * s.value_dim;
  TestMap query = filled(Q), key = terms == relative_only ? TestMap() : filled(Q), value = filled(V), grad = filled(V);
  const int64_t relative = terms == content_only ? 0 : s.heads * s.window * (s.head_dim / 2);
  Array row = parameter(relative), col = parameter(relative);

  LocalTest(const Kernels& table, const LocalCase& c, Storage storage, int number, Judge& judge)
      : table(table),
        naive({c.batch, c.heads, c.head_dim, c.value_dim, c.height, c.width, c.window, number % 2 == 1, 0.7, storage}),
        judge(judge),
        number(number) {
    naive.query = query.numbers(), naive.key = key.numbers(), naive.value = value.numbers();
    naive.row = row.numbers(), naive.col = col.numbers();
    naive.forward();
    judge.begin(describe("local", table.name, {c.batch, c.heads, c.head_dim, c.value_dim, c.height, c.width, c.window},
                         layout, terms),
                storage);
  }

  TestMap empty(int64_t channels) { return {s.batch, channels, s.height, s.width, storage, layout}; }
  TestMap filled(int64_t channels) {
    return {
        random.many(s.batch * channels * s.height * s.width), s.batch, channels, s.height, s.width, storage, layout};
  }
  Array parameter(int64_t count) { return {random.many(count), compute}; }

  void forward() {
    TestMap output = empty(V);
    Array logsumexp(s.batch * s.heads * s.height * s.width, compute);
    table.local_forward({s, query.map(), key.map(), value.map(), row.data(), col.data(), output.map(), logsumexp.data(),
                         1, nullptr, nullptr, false},
                        pool);
    judge.result("output", output, naive.output, norm(naive.value));
    judge.result("log-sum-exp", logsumexp, naive.logsumexp, norm(naive.query));
    judge.scratch_memory();
  }

  void forward_with_epilogue() {
    TestMap output(s.batch, V, (s.height + 1) / 2, (s.width + 1) / 2, storage, layout);
    Array gain = parameter(V), shift = parameter(V);
    const bool relu = number % 4 < 2;
    table.local_forward({s, query.map(), key.map(), value.map(), row.data(), col.data(), output.map(), nullptr, 2,
                         gain.data(), shift.data(), relu},
                        pool);
    const Numbers expected = naive.with_epilogue(2, gain.numbers(), shift.numbers(), relu);
    judge.result("output with epilogue", output, expected, norm(naive.value));
    judge.scratch_memory();
  }

  void backward() {
    Numbers grad_output = grad.numbers();
    naive.backward(grad_output);
    Array logsumexp(naive.logsumexp, compute);
    Array grad_row(s.batch * relative, compute), grad_col(s.batch * relative, compute);
    TestMap grad_query = empty(Q), grad_key = terms == relative_only ? TestMap() : empty(Q), grad_value = empty(V);
    table.local_backward({s, grad.map(), query.map(), key.map(), value.map(), row.data(), col.data(), logsumexp.data(),
                          grad_query.map(), grad_key.map(), grad_value.map(), grad_row.data(), grad_col.data()},
                         pool);
    const double size = norm(grad_output);
    judge.result("grad of query", grad_query, naive.grad_query, size);
    judge.result("grad of key", grad_key, naive.grad_key, size);
    judge.result("grad of value", grad_value, naive.grad_value, size);
    judge.result("grad of rows", grad_row, naive.grad_row, size);
    judge.result("grad of columns", grad_col, naive.grad_col, size);
    judge.scratch_memory();
  }
};

void test_local(const Kernels& table, const LocalCase& c, Storage storage, int number, Judge& judge) {
  LocalTest test(table, c, storage, number, judge);
  if (table.local_forward) test.forward(), test.forward_with_epilogue();
  if (table.local_backward) test.backward();
}

// Every number of a half precision passes through a window of one pixel, where attention returns the value itself.
void test_halves(const Kernels& table, Storage storage, Layout layout, Judge& judge) {
  if (!table.local_forward) return;
  Numbers all;
  for (int bits = 0; bits < 65536; ++bits) all.push_back(from_half(static_cast<uint16_t>(bits), format_of(storage)));
  TestMap query(Numbers(8 * 4 * 1024, 0), 1, 8, 4, 1024, storage, layout);
  TestMap value(all, 1, 16, 4, 1024, storage, layout), output(1, 16, 4, 1024, storage, layout);
  sasa::LocalForward call = {};
  call.shape = {1, 1, 8, 16, 4, 1024, 1, false, 1, storage}, call.pool = 1;
  call.query = query.map(), call.key = query.map(), call.value = value.map(), call.output = output.map();
  table.local_forward(call, pool_of(one_piece));
  const Numbers actual = output.numbers();
  int64_t wrong = 0;
  for (size_t i = 0; i < all.size(); ++i)
    wrong += !(actual[i] == all[i] || (std::isnan(actual[i]) && std::isnan(all[i])));
  judge.begin(std::string("every ") + storage_names[static_cast<int>(storage)] + ", " + table.name, storage);
  judge.exact("value", wrong);
}

}  // namespace
