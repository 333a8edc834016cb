// The kernels of each instruction set against naive loops in double: odd sizes, every storage type, layouts, paddings,
// results that start as NaN, tasks in any order. No torch. Ends with 0 if all agree; else with a sentence for each that
// does not.
//
// -DSASA_TEST_SETS="SASA_TEST(avx2) SASA_TEST(portable)" names those that are linked; `make test-kernels` does it all.
#include "instruction_sets.h"
#include "naive.h"
#include "norms.h"

namespace {

using namespace sasa;

struct TestedSet {
  const char* name;
  const Kernels& (*table)();
};

#define SASA_TEST(set) {#set, SASA_JOIN(kernels_, set)},
const TestedSet tested_sets[] = {SASA_TEST_SETS};
#undef SASA_TEST

bool runs_here(const std::string& name) {
#if defined(__x86_64__)
  if (name == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return !name.empty();
}

// ---------------------------------------------------------------------------------------------------- local attention

struct LocalCase {
  int64_t batch, heads, head_dim, value_dim, height, width, window;
};
const LocalCase local_cases[] = {
    {2, 2, 4, 4, 7, 5, 3},    {1, 2, 8, 8, 5, 19, 7},  {1, 3, 6, 3, 4, 11, 5},  {2, 1, 2, 9, 1, 9, 5},
    {1, 4, 2, 5, 9, 1, 3},    {3, 2, 4, 2, 3, 2, 7},   {1, 2, 4, 4, 1, 1, 5},   {2, 2, 8, 8, 5, 9, 1},
    {1, 2, 4, 6, 8, 17, 9},   {1, 1, 8, 8, 6, 20, 11}, {1, 1, 16, 2, 4, 33, 7}, {1, 1, 4, 4, 5, 6, 13},
    {1, 2, 10, 12, 2, 40, 3}, {2, 8, 2, 2, 13, 8, 3},  {1, 1, 4, 4, 41, 5, 3},  {1, 2, 8, 8, 31, 6, 5},
};

void test_local(const TestedSet& set, const LocalCase& c, Storage storage, int number, Judge& judge) {
  const Kernels& table = set.table();
  const int64_t Q = c.heads * c.head_dim, V = c.heads * c.value_dim, B = c.batch, H = c.height, W = c.width;
  const Layout layout = static_cast<Layout>(number % kLayouts);
  const int terms = number / 2 % 3;  // both, content alone, relative alone
  const Parallel pool = pool_of(static_cast<Order>(number % kOrders));
  const Storage wide = compute(storage);
  NaiveLocal naive({B, c.heads, c.head_dim, c.value_dim, H, W, c.window, number % 2 == 1, 0.7, storage});
  const LocalShape& s = naive.s;
  Random random(static_cast<uint64_t>(number));
  auto map = [&](int64_t channels) {
    return TestMap(random.many(B * channels * H * W), B, channels, H, W, storage, layout);
  };
  auto parameter = [&](int64_t count) { return Array(random.many(count), wide); };

  TestMap query = map(Q), key = terms == 2 ? TestMap() : map(Q), value = map(V), grad = map(V);
  const int64_t relative = terms == 1 ? 0 : c.heads * c.window * (c.head_dim / 2);
  Array row = parameter(relative), col = parameter(relative);
  naive.query = query.numbers(), naive.key = key.numbers(), naive.value = value.numbers();
  naive.row = row.numbers(), naive.col = col.numbers();
  naive.forward();
  judge.begin(described("local", set.name, number, {B, c.heads, c.head_dim, c.value_dim, H, W, c.window}, terms),
              storage);

  for (int64_t pooled = 1; pooled <= 2 && table.local_forward; ++pooled) {  // as in training, then as in inference
    const bool training = pooled == 1;
    const int64_t h = (H + pooled - 1) / pooled, w = (W + pooled - 1) / pooled;
    TestMap output(B, V, h, w, storage, layout);
    Array logsumexp(B * c.heads * H * W, wide), gain = parameter(training ? 0 : V), shift = parameter(training ? 0 : V);
    const bool relu = !training && number % 4 < 2;
    table.local_forward({s, query.map(), key.map(), value.map(), row.data(), col.data(), output.map(),
                         training ? logsumexp.data() : nullptr, pooled, gain.data(), shift.data(), relu},
                        pool);
    const Numbers want = naive.finished(pooled, gain.numbers(), shift.numbers(), relu);
    judge.compare(training ? "output" : "output for inference", output.numbers(), want, norm(naive.value));
    if (training) judge.compare("log-sum-exp", logsumexp.numbers(), naive.logsumexp, norm(naive.query));
    judge.margins("output", output);
    judge.margins("log-sum-exp", logsumexp);
    judge.scratch_memory();
  }
  if (!table.local_backward) return;
  Numbers grad_output = grad.numbers();
  naive.backward(grad_output);
  Array logsumexp(naive.logsumexp, wide), grad_row(B * relative, wide), grad_col(B * relative, wide);
  TestMap grad_query(B, Q, H, W, storage, layout), grad_value(B, V, H, W, storage, layout);
  TestMap grad_key = terms == 2 ? TestMap() : TestMap(B, Q, H, W, storage, layout);
  table.local_backward({s, grad.map(), query.map(), key.map(), value.map(), row.data(), col.data(), logsumexp.data(),
                        grad_query.map(), grad_key.map(), grad_value.map(), grad_row.data(), grad_col.data()},
                       pool);
  const double size = norm(grad_output);
  judge.compare("grad of query", grad_query.numbers(), naive.grad_query, size);
  judge.compare("grad of key", grad_key.numbers(), naive.grad_key, size);
  judge.compare("grad of value", grad_value.numbers(), naive.grad_value, size);
  judge.compare("grad of rows", grad_row.numbers(), naive.grad_row, size);
  judge.compare("grad of columns", grad_col.numbers(), naive.grad_col, size);
  judge.margins("grad of query", grad_query);
  judge.margins("grad of key", grad_key);
  judge.margins("grad of value", grad_value);
  judge.margins("grad of rows", grad_row);
  judge.margins("grad of columns", grad_col);
  judge.scratch_memory();
}

// ---------------------------------------------------------------------------------------------------- block attention

struct BlockCase {
  int64_t batch, channels, heads, head_dim, value_dim, height, width, block;
};
const BlockCase block_cases[] = {
    {2, 3, 2, 4, 4, 8, 12, 4}, {1, 3, 1, 4, 3, 7, 11, 4}, {2, 5, 1, 4, 2, 1, 9, 3}, {2, 3, 3, 2, 5, 9, 1, 2},
    {1, 3, 2, 4, 2, 3, 2, 5},  {1, 4, 2, 4, 4, 1, 1, 4},  {2, 3, 2, 4, 4, 5, 3, 1}, {1, 2, 2, 2, 8, 19, 37, 2},
    {1, 3, 1, 2, 1, 5, 41, 2}, {1, 1, 1, 2, 4, 33, 5, 4},
};

// One case: its tensors, and what the calls of forward and backward have in common.
struct BlockTest {
  const Kernels& table;
  NaiveBlock naive;
  const BlockShape& s = naive.s;
  Judge& judge;
  Storage storage = s.storage, wide = compute(storage);
  Layout layout;
  Parallel pool;
  Random random;
  int64_t Q = s.heads * s.head_dim, V = s.heads * s.value_dim;
  int64_t down = (s.height + s.block - 1) / s.block, across = (s.width + s.block - 1) / s.block;
  int64_t strips = s.batch * block_strips(s);
  TestMap image, value;
  Array w_query, w_key, matrices, row, col, sign;
  std::vector<uint8_t> places;

  BlockTest(const Kernels& table, const BlockShape& shape, Judge& judge, int number, int terms, bool given)
      : table(table),
        naive(shape),
        judge(judge),
        layout(static_cast<Layout>(number % kLayouts)),
        pool(pool_of(static_cast<Order>(number % kOrders))),
        random(static_cast<uint64_t>(number) + 1000),
        image(filled(s.channels, s.height, s.width)),
        value(given ? filled(V, s.height, s.width) : TestMap()),
        w_query(parameter(Q * s.channels)),
        w_key(parameter(terms == 2 ? 0 : Q * s.channels)),
        matrices(parameter(given ? 0 : s.block * s.block * V * s.channels)),
        row(parameter(terms == 1 ? 0 : s.heads * (2 * s.block - 1) * (s.head_dim / 2))),
        col(parameter(terms == 1 ? 0 : s.heads * (2 * s.block - 1) * (s.head_dim / 2))),
        sign(parameter(V)),
        places(static_cast<size_t>(s.batch * V * down * across), 255) {
    naive.image = image.numbers(), naive.value = value.numbers();
    naive.w_query = w_query.numbers(), naive.w_key = w_key.numbers(), naive.matrices = matrices.numbers();
    naive.row = row.numbers(), naive.col = col.numbers();
    naive.forward(sign.numbers());
  }

  TestMap empty(int64_t channels, int64_t H, int64_t W) { return {s.batch, channels, H, W, storage, layout}; }
  TestMap filled(int64_t channels, int64_t H, int64_t W) {
    return {random.many(s.batch * channels * H * W), s.batch, channels, H, W, storage, layout};
  }
  Array parameter(int64_t count) { return {random.many(count), wide}; }
  Map position() { return {places.data(), {V * down * across, down * across, across, 1}}; }

  template <class Work>  // BlockForward or BlockBackward
  Work work() {
    Work work = {};
    work.shape = s;
    work.image = image.map(), work.value = value.map();
    work.w_query = w_query.data(), work.w_key = w_key.data(), work.w_value = matrices.data();
    work.rel_row = row.data(), work.rel_col = col.data();
    return work;
  }

  void forward() {
    auto work = this->work<BlockForward>();
    TestMap output = empty(V, s.height, s.width);
    Array logsumexp(s.batch * s.heads * s.height * s.width, wide);
    work.output = output.map(), work.logsumexp = logsumexp.data();
    table.block_forward(work, pool);
    judge.compare("output", output.numbers(), naive.output, norm(naive.image));
    judge.compare("log-sum-exp", logsumexp.numbers(), naive.logsumexp, norm(naive.image));
    judge.margins("output", output);
    judge.margins("log-sum-exp", logsumexp);
    judge.scratch_memory();
  }

  void forward_pooled() {
    auto work = this->work<BlockForward>();
    TestMap extreme = empty(V, down, across);
    Array sums(strips * 2 * V, Storage::float64);
    work.extreme = extreme.map(), work.position = position(), work.sign = sign.data();
    work.sums = static_cast<double*>(sums.data());
    table.block_forward(work, pool);
    judge.compare("extreme", extreme.numbers(), naive.extreme, norm(naive.image));
    judge.compare("sums", added(sums.numbers(), strips), naive.sums, norm(naive.image));
    judge.compare("positions", Numbers(places.begin(), places.end()), {naive.places.begin(), naive.places.end()}, 1);
    judge.margins("extreme", extreme);
    judge.margins("sums", sums);
    judge.scratch_memory();
  }

  void backward(bool pooled, bool image_gradient) {
    auto work = this->work<BlockBackward>();
    TestMap grad = pooled ? filled(V, down, across) : filled(V, s.height, s.width);
    Array grad_sums(random.many(2 * V), Storage::float64);
    Numbers grad_output = pooled ? naive.grad_of_pooled(grad.numbers(), grad_sums.numbers()) : grad.numbers();
    if (pooled) {
      work.grad_extreme = grad.map(), work.position = position();
      work.grad_sums = static_cast<const double*>(grad_sums.data());
    } else {
      work.grad_output = grad.map();
    }
    naive.backward(grad_output);

    auto gradient = [&](const Numbers& of) { return Array(strips * static_cast<int64_t>(of.size()), wide); };
    TestMap grad_image = image_gradient ? empty(s.channels, s.height, s.width) : TestMap();
    TestMap grad_value = naive.value.empty() ? TestMap() : empty(V, s.height, s.width);
    Array grads[] = {gradient(naive.w_query), gradient(naive.w_key), gradient(naive.matrices), gradient(naive.row),
                     gradient(naive.col)};
    work.grad_image = grad_image.map(), work.grad_value = grad_value.map();
    work.grad_w_query = grads[0].data(), work.grad_w_key = grads[1].data(), work.grad_w_value = grads[2].data();
    work.grad_row = grads[3].data(), work.grad_col = grads[4].data();
    table.block_backward(work, pool);

    const double size = norm(grad_output);
    if (image_gradient) judge.compare("grad of image", grad_image.numbers(), naive.grad_image, size);
    judge.compare("grad of value", grad_value.numbers(), naive.grad_value, size);
    const char* const names[] = {"grad of W_Q", "grad of W_K", "grad of W_V", "grad of rows", "grad of columns"};
    const Numbers* const wanted[] = {&naive.grad_query, &naive.grad_key, &naive.grad_matrices, &naive.grad_row,
                                     &naive.grad_col};
    for (int i = 0; i < 5; ++i) {
      judge.compare(names[i], added(grads[i].numbers(), strips), *wanted[i], size);
      judge.margins(names[i], grads[i]);
    }
    judge.margins("grad of image", grad_image);
    judge.margins("grad of value", grad_value);
    judge.scratch_memory();
  }
};

void test_block(const TestedSet& set, const BlockCase& c, Storage storage, int number, Judge& judge) {
  const Kernels& table = set.table();
  const int terms = number / 2 % 3;    // both, content alone, relative alone
  const bool given = number % 4 == 1;  // the values, as a map
  const BlockShape shape = {c.batch,    c.channels,  c.height, c.width, c.heads,
                            c.head_dim, c.value_dim, c.block,  0.7,     storage};
  judge.begin(described("block", set.name, number,
                        {c.batch, c.channels, c.heads, c.head_dim, c.value_dim, c.height, c.width, c.block}, terms),
              storage);
  BlockTest test(table, shape, judge, number, terms, given);
  if (table.block_forward) test.forward(), test.forward_pooled();
  test.places = test.naive.places;
  if (table.block_backward) test.backward(false, number % 3 != 0), test.backward(true, number % 3 != 0);
}

// All numbers of a half precision, through a window of one pixel: attention is then the value itself.
void test_halves(const TestedSet& set, Storage storage, Layout layout, Judge& judge) {
  const Kernels& table = set.table();
  if (!table.local_forward) return;
  Numbers all;
  for (int bits = 0; bits < 65536; ++bits) all.push_back(widened(static_cast<uint16_t>(bits), format_of(storage)));
  const LocalShape s = {1, 1, 8, 16, 4, 1024, 1, false, 1, storage};
  TestMap query(Numbers(8 * 4 * 1024, 0), 1, 8, 4, 1024, storage, layout);
  TestMap value(all, 1, 16, 4, 1024, storage, layout), output(1, 16, 4, 1024, storage, layout);
  LocalForward work = {};
  work.shape = s, work.pool = 1;
  work.query = query.map(), work.key = query.map(), work.value = value.map(), work.output = output.map();
  table.local_forward(work, pool_of(at_once));
  const Numbers got = output.numbers();
  int64_t wrong = 0;
  for (size_t i = 0; i < all.size(); ++i) wrong += !(got[i] == all[i] || (std::isnan(got[i]) && std::isnan(all[i])));
  judge.begin(std::string("every ") + storage_names[static_cast<int>(storage)] + ", " + set.name, storage);
  judge.exact("value", wrong);
}

int test(const TestedSet& set) {
  Judge judge;
  int number = 0;
  for (Storage storage : storages) {
    for (const LocalCase& c : local_cases)
      for (int repeat = 0; repeat < 3; ++repeat) test_local(set, c, storage, number++, judge);
    for (const BlockCase& c : block_cases)
      for (int repeat = 0; repeat < 2; ++repeat) test_block(set, c, storage, number++, judge);
    for (const AffineCase& c : affine_cases)
      for (int repeat = 0; repeat < 2; ++repeat) test_affine(set.table(), c, storage, number++, judge);
  }
  for (const NormCase& c : norm_cases)
    for (int repeat = 0; repeat < 4; ++repeat) test_norm(set.table(), c, number++, judge);
  for (Storage storage : {Storage::float16, Storage::bfloat16})
    for (Layout layout : {contiguous, channels_last}) test_halves(set, storage, layout, judge);
  std::printf("%s: %d comparisons, %d failed; largest error", set.name, judge.compared, judge.failed);
  for (int i = 0; i < 4; ++i) std::printf("%s %s %.1e", i ? "," : "", storage_names[i], judge.worst[i]);
  std::printf("\n");
  return judge.failed;
}

}  // namespace

int main() {
  int passed = 0, failed = 0, skipped = 0;
  for (const TestedSet& set : tested_sets) {
    if (!runs_here(set.name)) {
      std::printf("%s: skipped, this CPU does not run it\n", set.name);
      ++skipped;
    } else {
      ++(test(set) == 0 ? passed : failed);
    }
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed == 0 ? 0 : 1;
}
