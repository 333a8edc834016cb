// What the test of the kernels compares, and how it went.
#pragma once
#include "maps.h"

namespace {

const Storage storages[] = {Storage::float32, Storage::float64, Storage::bfloat16, Storage::float16};
const char* const storage_names[] = {"float32", "float64", "bfloat16", "float16"};
const double tolerances[] = {1e-5, 1e-10, 2e-2, 3e-3};
const char* const layout_names[] = {"contiguous", "channels_last", "inside", "inside channels_last", "spread"};

// What is being compared, and how it went.
class Judge {
 public:
  int compared = 0, failed = 0;
  double worst[4] = {0, 0, 0, 0};  // of each storage type

  void begin(const std::string& what, Storage storage) {
    what_ = what + ", " + storage_names[static_cast<int>(storage)], storage_ = storage;
  }

  // Relative L2; relative to `otherwise` where what is wanted vanishes, as the gradient of a softmax over one key does.
  void compare(const char* name, const Numbers& got, const Numbers& want, double otherwise) {
    ++compared;
    if (got.size() != want.size()) return fail(name, "has another size");
    double difference = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      difference += (got[i] - want[i]) * (got[i] - want[i]);
      size += want[i] * want[i];
    }
    size = std::sqrt(size);
    const double error = std::sqrt(difference) / (size > 1e-12 * otherwise ? size : otherwise);
    double& most = worst[static_cast<int>(storage_)];
    if (error > most) most = error;
    if (!(error <= tolerances[static_cast<int>(storage_)])) fail(name, "differs by " + std::to_string(error));
  }

  void exact(const char* name, int64_t wrong) {
    ++compared;
    if (wrong > 0) fail(name, "does not come back as it was, " + std::to_string(wrong) + " times");
  }

  // After a call: nothing was written beside what was given, and behind the scratch memory.
  template <class T>  // TestMap or Array
  void margins(const char* name, const T& results) {
    if (!results.kept_its_margins()) fail(name, "was written beside its memory");
  }
  void scratch_memory() {
    sasa::scratch(0);  // looks at what was given out before
    if (scratch_overrun.exchange(false)) fail("scratch memory", "was written behind its end");
  }

 private:
  void fail(const char* name, const std::string& how) {
    if (++failed <= 20) std::printf("%s: %s %s\n", what_.c_str(), name, how.c_str());
  }
  std::string what_;
  Storage storage_ = Storage::float32;
};

double norm(const Numbers& numbers) {
  double sum = 0;
  for (double number : numbers) sum += number * number;
  return std::sqrt(sum);
}

// Sums of `parts` equal pieces, as callers add the gradients of images and strips.
Numbers added(const Numbers& numbers, int64_t parts) {
  Numbers sums(numbers.size() / static_cast<size_t>(parts));
  for (size_t i = 0; i < numbers.size(); ++i) sums[i % sums.size()] += numbers[i];
  return sums;
}

std::string described(const char* what, const char* set, const std::vector<int64_t>& shape) {
  std::string text = std::string(what) + ", " + set + ",";
  for (int64_t side : shape) text += " " + std::to_string(side);
  return text;
}

std::string described(const char* what, const char* set, int number, const std::vector<int64_t>& shape, int terms) {
  const char* const kinds[] = {"content and positions", "content", "positions"};
  return described(what, set, shape) + ", " + layout_names[number % kLayouts] + ", " + kinds[terms];
}

}  // namespace
