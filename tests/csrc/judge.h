// Compares results of the kernels with the expected numbers, and counts failures.
#pragma once
#include "maps.h"

namespace {

const Storage storages[] = {Storage::float32, Storage::float64, Storage::bfloat16, Storage::float16};
const char* const storage_names[] = {"float32", "float64", "bfloat16", "float16"};
const double tolerances[] = {1e-5, 1e-10, 2e-2, 3e-3};
const char* const layout_names[] = {"contiguous", "channels_last", "slice", "channels_last slice", "strided"};

class Judge {
 public:
  int compared = 0, failed = 0;
  double largest_error[4] = {0, 0, 0, 0};  // of each storage type

  void begin(const std::string& test, Storage storage) {
    test_ = test + ", " + storage_names[static_cast<int>(storage)], storage_ = storage;
  }

  // Relative L2 error; relative to `fallback_norm` where the expected numbers vanish, as the gradient of a softmax over
  // one key does.
  void compare(const char* name, const Numbers& actual, const Numbers& expected, double fallback_norm) {
    ++compared;
    if (actual.size() != expected.size()) return fail(name, "has the wrong size");
    double difference = 0, norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
      norm += expected[i] * expected[i];
    }
    norm = std::sqrt(norm);
    const double error = std::sqrt(difference) / (norm > 1e-12 * fallback_norm ? norm : fallback_norm);
    double& largest = largest_error[static_cast<int>(storage_)];
    if (error > largest) largest = error;
    if (!(error <= tolerances[static_cast<int>(storage_)])) fail(name, "differs by " + std::to_string(error));
  }

  // A whole result: its numbers, and that the kernel wrote nowhere else.
  template <class T>  // TestMap or Array
  void result(const char* name, T& actual, const Numbers& expected, double fallback_norm) {
    compare(name, actual.numbers(), expected, fallback_norm);
    margins(name, actual);
  }

  template <class T>  // TestMap or Array
  void margins(const char* name, const T& actual) {
    if (!actual.margins_intact()) fail(name, "was written outside its memory");
  }

  // After a call: the kernel stayed inside its scratch memory.
  void scratch_memory() {
    sasa::scratch(0);  // checks the guard bytes of the previous allocation
    if (scratch_overrun.exchange(false)) fail("scratch memory", "was written beyond its end");
  }

  // Numbers that must be reproduced exactly.
  void exact(const char* name, int64_t wrong) {
    ++compared;
    if (wrong > 0) fail(name, "is not reproduced exactly: " + std::to_string(wrong) + " numbers differ");
  }

 private:
  void fail(const char* name, const std::string& how) {
    if (++failed <= 20) std::printf("%s: %s %s\n", test_.c_str(), name, how.c_str());
  }
  std::string test_;
  Storage storage_ = Storage::float32;
};

double norm(const Numbers& numbers) {
  double sum = 0;
  for (double number : numbers) sum += number * number;
  return std::sqrt(sum);
}

// The sum over the first axis, as callers add the gradients of images and strips.
Numbers sum_parts(const Numbers& numbers, int64_t parts) {
  Numbers sums(numbers.size() / static_cast<size_t>(parts));
  for (size_t i = 0; i < numbers.size(); ++i) sums[i % sums.size()] += numbers[i];
  return sums;
}

// Which inputs a test of attention has: q.k and q.r, q.k only, or q.r only.
enum Terms { content_and_relative, content_only, relative_only, kTerms };

std::string describe(const char* op, const char* set, const std::vector<int64_t>& shape) {
  std::string text = std::string(op) + ", " + set + ",";
  for (int64_t side : shape) text += " " + std::to_string(side);
  return text;
}

std::string describe(const char* op, const char* set, const std::vector<int64_t>& shape, Layout layout, Terms terms) {
  const char* const term_names[] = {"content and relative positions", "content only", "relative positions only"};
  return describe(op, set, shape) + ", " + layout_names[layout] + ", " + term_names[terms];
}

}  // namespace
