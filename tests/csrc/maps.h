// Test data: maps in any storage type and layout with NaN around them, parameters, random numbers, and scratch memory
// that starts as NaN.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"

namespace {

using sasa::Map;
using sasa::Storage;
using Numbers = std::vector<double>;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // AddressSanitizer has guard zones of its own
#else
constexpr bool kSanitized = false;
#endif

int64_t bytes_of(Storage storage) { return storage == Storage::float64 ? 8 : storage == Storage::float32 ? 4 : 2; }

// ------------------------------------------------------------------------------ half precision, simple and slow

// `digits` explicit bits of the significand, exponents from `min` to `max`. Rounding is to nearest, ties to even.
struct HalfFormat {
  int digits, min, max;
};
constexpr HalfFormat kFloat16{10, -14, 15}, kBfloat16{7, -126, 127};

HalfFormat format_of(Storage storage) { return storage == Storage::float16 ? kFloat16 : kBfloat16; }

double from_half(uint16_t bits, HalfFormat f) {
  const int fraction = bits & ((1 << f.digits) - 1), exponent = (bits & 0x7fff) >> f.digits;
  const double sign = bits & 0x8000 ? -1 : 1, part = std::ldexp(fraction, -f.digits);
  if (exponent == f.max - f.min + 2) return fraction ? std::nan("") : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1 + part, exponent - 1 + f.min) : std::ldexp(part, f.min));
}

uint16_t to_half(double wide, HalfFormat f) {
  const uint16_t sign = std::signbit(wide) ? 0x8000 : 0,
                 infinity = static_cast<uint16_t>((f.max - f.min + 2) << f.digits);
  if (std::isnan(wide)) return static_cast<uint16_t>(infinity | 1 << (f.digits - 1));
  const double size = std::fabs(wide);
  int exponent = size == 0 || std::isinf(size) ? f.min : std::ilogb(size);
  if (exponent < f.min) exponent = f.min;
  const double units = std::nearbyint(std::ldexp(size, f.digits - exponent));  // of the last digit
  const double biased = units + std::ldexp(exponent - f.min, f.digits);        // a carry increments the exponent
  return static_cast<uint16_t>(sign | (biased >= infinity ? infinity : static_cast<uint16_t>(biased)));
}

double read(const void* data, Storage storage, int64_t i) {
  if (storage == Storage::float64) return static_cast<const double*>(data)[i];
  if (storage == Storage::float32) return static_cast<const float*>(data)[i];
  return from_half(static_cast<const uint16_t*>(data)[i], format_of(storage));
}

void write(void* data, Storage storage, int64_t i, double value) {
  if (storage == Storage::float64) {
    static_cast<double*>(data)[i] = value;
  } else if (storage == Storage::float32) {
    static_cast<float*>(data)[i] = static_cast<float>(value);
  } else {
    static_cast<uint16_t*>(data)[i] = to_half(value, format_of(storage));
  }
}

Storage compute_type(Storage storage) { return storage == Storage::float64 ? Storage::float64 : Storage::float32; }

// --------------------------------------------------------------------------------------------------- arrays and maps

// Memory that starts as 0xff bytes, which are NaN in every floating point type, with guard bytes around it.
class Memory {
 public:
  Memory(int64_t count, int64_t size)
      : bytes_(static_cast<size_t>(count == 0 ? 0 : count * size + 2 * kGuard), 0xff), size_(size) {}
  void* data() { return bytes_.empty() ? nullptr : bytes_.data() + kGuard; }
  bool untouched(int64_t i) const { return all_ones(kGuard + i * size_, kGuard + (i + 1) * size_); }
  bool guards_untouched() const {
    const int64_t end = static_cast<int64_t>(bytes_.size());
    return end == 0 || (all_ones(0, kGuard) && all_ones(end - kGuard, end));
  }

 private:
  static constexpr int64_t kGuard = kSanitized ? 0 : 64;
  bool all_ones(int64_t begin, int64_t end) const {
    return std::all_of(bytes_.begin() + begin, bytes_.begin() + end, [](unsigned char byte) { return byte == 0xff; });
  }
  std::vector<unsigned char> bytes_;
  int64_t size_;
};

// A parameter, a log-sum-exp or the gradient of a parameter: dense, in the compute type.
class Array {
 public:
  Array() : Array(0, Storage::float32) {}
  Array(int64_t count, Storage type) : memory_(count, bytes_of(type)), type_(type), count_(count) {}
  Array(const Numbers& numbers, Storage type) : Array(static_cast<int64_t>(numbers.size()), type) {
    for (int64_t i = 0; i < count_; ++i) write(memory_.data(), type_, i, numbers[static_cast<size_t>(i)]);
  }
  void* data() { return memory_.data(); }
  Numbers numbers() {
    Numbers all(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) all[static_cast<size_t>(i)] = read(memory_.data(), type_, i);
    return all;
  }
  bool margins_intact() const { return memory_.guards_untouched(); }

 private:
  Memory memory_;
  Storage type_;
  int64_t count_;
};

enum Layout { contiguous, channels_last, slice, channels_last_slice, strided, kLayouts };

// A (B, C, H, W) map in one of the layouts. The memory around it and between its pixels must stay NaN.
class TestMap {
 public:
  TestMap() : TestMap(0, 0, 0, 0, Storage::float32, contiguous) {}
  TestMap(int64_t B, int64_t C, int64_t H, int64_t W, Storage storage, Layout layout)
      : size_{B, C, H, W}, storage_(storage), memory_(0, 1) {
    const bool margin = layout == slice || layout == channels_last_slice;
    const int64_t c = C + (margin ? 5 : 0), h = H + (margin ? 2 : 0), w = W + (margin ? 3 : 0);
    const int64_t step = layout == strided ? 2 : 1;
    const bool last = layout == channels_last || layout == channels_last_slice;
    const int64_t strides[2][4] = {{c * h * w * step, h * w * step, w * step, step}, {h * w * c, 1, w * c, c}};
    memcpy(stride_, strides[last], sizeof stride_);
    if (margin) first_ = 2 * stride_[1] + stride_[2] + stride_[3];
    count_ = B * c * h * w * step;
    memory_ = Memory(count_, bytes_of(storage));
  }
  TestMap(const Numbers& numbers, int64_t B, int64_t C, int64_t H, int64_t W, Storage storage, Layout layout)
      : TestMap(B, C, H, W, storage, layout) {
    size_t i = 0;
    each([&](int64_t at) { write(memory_.data(), storage_, at, numbers[i++]); });
  }

  Map map() {
    if (count_ == 0) return {nullptr, {0, 0, 0, 0}};
    char* data = static_cast<char*>(memory_.data()) + first_ * bytes_of(storage_);
    return {data, {stride_[0], stride_[1], stride_[2], stride_[3]}};
  }

  Numbers numbers() {
    Numbers all;
    each([&](int64_t at) { all.push_back(read(memory_.data(), storage_, at)); });
    return all;
  }

  // Whether all memory that does not belong to the map is still NaN.
  bool margins_intact() const {
    if (!memory_.guards_untouched()) return false;
    std::vector<bool> own(static_cast<size_t>(count_));
    each([&](int64_t at) { own[static_cast<size_t>(at)] = true; });
    for (int64_t i = 0; i < count_; ++i)
      if (!own[static_cast<size_t>(i)] && !memory_.untouched(i)) return false;
    return true;
  }

 private:
  template <class F>
  void each(F&& f) const {
    for (int64_t b = 0; b < size_[0]; ++b)
      for (int64_t c = 0; c < size_[1]; ++c)
        for (int64_t y = 0; y < size_[2]; ++y)
          for (int64_t x = 0; x < size_[3]; ++x)
            f(first_ + b * stride_[0] + c * stride_[1] + y * stride_[2] + x * stride_[3]);
  }

  int64_t size_[4], stride_[4], first_ = 0, count_ = 0;
  Storage storage_;
  Memory memory_;
};

// ---------------------------------------------------------------------------------------------------- random numbers

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 88172645463325252u) {}
  // Approximately 0.7 * normal.
  double next() {
    double sum = 0;
    for (int i = 0; i < 6; ++i) sum += uniform() - 0.5;
    return sum;
  }
  Numbers many(int64_t count) {
    Numbers all(static_cast<size_t>(count));
    for (double& number : all) number = next();
    return all;
  }

 private:
  double uniform() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return static_cast<double>(state_ >> 11) / 9007199254740992.0;
  }
  uint64_t state_;
};

// ----------------------------------------------------------------------------------------------------------- threads

// How the tasks of a call run: all in one piece, one by one in reverse order, or in two halves on two threads.
enum Order { one_piece, reversed, two_threads, kOrders };

void run_in_order(const sasa::Parallel& pool, int64_t count, void (*task)(void*, int64_t, int64_t), void* context) {
  if (pool.threads == 1) return task(context, 0, count);
  if (pool.threads == 3) {
    for (int64_t i = count; i > 0; --i) task(context, i - 1, i);
    return;
  }
  const int64_t half = count / 2;
  std::thread other([&] {
    if (half > 0) task(context, 0, half);
  });
  if (half < count) task(context, half, count);
  other.join();
}

sasa::Parallel pool_of(Order order) { return {run_in_order, order == one_piece ? 1 : order == reversed ? 3 : 2}; }

std::atomic<bool> scratch_overrun{false};

}  // namespace

// Replaces the function of dispatch.cpp: exactly the requested size, all NaN, with guard bytes behind it.
void* sasa::scratch(size_t bytes) {
  constexpr size_t guard = kSanitized ? 0 : 64;
  struct Piece {
    unsigned char* data = nullptr;
    size_t size = 0;
    void check() const {
      for (size_t i = 0; data && i < guard; ++i)
        if (data[size + i] != 0xa5) scratch_overrun = true;
    }
    ~Piece() { check(), std::free(data); }
  };
  static thread_local Piece piece;
  piece.check();
  std::free(piece.data);
  void* fresh = nullptr;
  if (posix_memalign(&fresh, 64, bytes + guard + (bytes + guard == 0)) != 0) std::abort();
  piece.data = static_cast<unsigned char*>(fresh), piece.size = bytes;
  memset(piece.data, 0xff, bytes);
  memset(piece.data + bytes, 0xa5, guard);
  return piece.data;
}
