// The primitives of csrc/cuda/device.h in plain C++: see there for what each does.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>

#include "memory.h"

#define SASA_DEVICE inline
#define SASA_KERNEL(...) inline
#define SASA_ARGUMENT const

#define threadIdx (emulation::thread_index)
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)
#define SASA_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads() {
  if (emulation::counting && emulation::machine.warp->lane == 0) emulation::counts.barriers++;
  emulation::meet(emulation::kBarrier, nullptr);
}

namespace emulation {

// Meets at an operation whose arguments are a struct with a static `run`.
template <class Arguments>
inline void perform(Arguments& arguments) {
  static const Operation operation{Arguments::kName, Arguments::run};
  meet(operation, &arguments);
}
template <class Arguments>
Arguments& of_lane(void** lanes, int lane) {
  return *static_cast<Arguments*>(lanes[lane]);
}

struct SyncWarp {
  static constexpr const char* kName = "__syncwarp";
  static void run(void**) { machine.warp->interval++, counts.warp_barriers++; }
};

inline float bits_to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t float_to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline uint16_t round_to_bfloat16(float x) {
  const uint32_t bits = float_to_bits(x);
  if (x != x) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline uint16_t round_to_float16(float x) {
  const uint32_t bits = float_to_bits(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (x != x) return 0x7fff;
  if (size >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more
  if (size < 0x38800000) {  // a subnormal: adding 0.5 rounds at its last bit
    return static_cast<uint16_t>(sign | (float_to_bits(std::fabs(x) + 0.5f) - 0x3f000000));
  }
  return static_cast<uint16_t>(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
}

inline float widen_float16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, size = half & 0x7fff;
  if (size >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (size & 0x3ff) << 13);
  return bits_to_float(sign | float_to_bits(bits_to_float(size << 13) * 0x1p112f));
}

}  // namespace emulation

inline void __syncwarp() {
  emulation::SyncWarp nothing;
  emulation::perform(nothing);
}

namespace sasa {

SASA_DEVICE float infinity() { return std::numeric_limits<float>::infinity(); }
SASA_DEVICE float quiet_nan() { return std::numeric_limits<float>::quiet_NaN(); }
SASA_DEVICE float exp2_approx(float x) {
  if (emulation::counting && emulation::machine.warp->lane == 0) emulation::counts.exponentials++;
  return std::exp2(x);
}
SASA_DEVICE float log2_approx(float x) { return std::log2(x); }
SASA_DEVICE float reciprocal_approx(float x) { return 1 / x; }

SASA_DEVICE float to_float(bfloat16 x) { return emulation::bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
SASA_DEVICE float to_float(float16 x) { return emulation::widen_float16(x.bits); }
template <class T>
SASA_DEVICE T from_float(float x) {
  return static_cast<T>(x);
}
template <>
SASA_DEVICE bfloat16 from_float<bfloat16>(float x) {
  return {emulation::round_to_bfloat16(x)};
}
template <>
SASA_DEVICE float16 from_float<float16>(float x) {
  return {emulation::round_to_float16(x)};
}
template <class T>
SASA_DEVICE unsigned pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<unsigned>(from_float<T>(high).bits) << 16;
}
template <class T>
SASA_DEVICE float low(unsigned pair) {
  return to_float(T{static_cast<unsigned short>(pair)});
}
template <class T>
SASA_DEVICE float high(unsigned pair) {
  return to_float(T{static_cast<unsigned short>(pair >> 16)});
}

template <class V>
SASA_DEVICE V load_shared(unsigned offset, SASA_PLACE) {
  emulation::touch_shared(offset, sizeof(V), false);
  if (emulation::counting) emulation::count_access(emulation::Kind::shared_load, offset, sizeof(V), file, line);
  V value;
  std::memcpy(&value, emulation::shared + offset, sizeof(V));
  return value;
}
template <class V>
SASA_DEVICE void store_shared(unsigned offset, V value, SASA_PLACE) {
  emulation::touch_shared(offset, sizeof(V), true);
  if (emulation::counting) emulation::count_access(emulation::Kind::shared_store, offset, sizeof(V), file, line);
  std::memcpy(emulation::shared + offset, &value, sizeof(V));
}
template <class V>
SASA_DEVICE V load_global(const V* pointer, SASA_PLACE) {
  emulation::check_global(pointer, sizeof(V), false);
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (emulation::counting) emulation::count_access(emulation::Kind::global_load, address, sizeof(V), file, line);
  return *pointer;
}
template <class V>
SASA_DEVICE void store_global(V* pointer, V value, SASA_PLACE) {
  emulation::check_global(pointer, sizeof(V), true);
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (emulation::counting) emulation::count_access(emulation::Kind::global_store, address, sizeof(V), file, line);
  *pointer = value;
}

SASA_DEVICE void copy_async(unsigned offset, const void* source, bool inside, SASA_PLACE) {
  emulation::check_aligned(source, 16);  // also where nothing is read
  if (inside) emulation::check_global(source, 16, false);
  const auto address = inside ? reinterpret_cast<uintptr_t>(source) : 0;
  if (emulation::counting) emulation::count_access(emulation::Kind::copy, offset, 16, file, line, address);
  emulation::copies[threadIdx.x].open.push_back({offset, inside ? source : nullptr});
}
SASA_DEVICE void commit_copies() {
  emulation::Copies& mine = emulation::copies[threadIdx.x];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int N>
SASA_DEVICE void wait_copies() {
  emulation::Copies& mine = emulation::copies[threadIdx.x];
  for (; mine.groups.size() > N; mine.groups.pop_front()) emulation::arrive(mine.groups.front());
}

}  // namespace sasa

namespace emulation {

template <int COUNT, bool TRANSPOSED>
struct LoadMatrix {
  static constexpr const char* kName = "ldmatrix";
  unsigned* r;
  unsigned offset;
  static void run(void** lanes) {
    for (int m = 0; m < COUNT; m++) {
      uint16_t rows[8][8];
      uintptr_t address[kLanes] = {};
      bool active[kLanes] = {};
      for (int j = 0; j < 8; j++) {
        address[j] = of_lane<LoadMatrix>(lanes, 8 * m + j).offset, active[j] = true;
        std::memcpy(rows[j], shared + address[j], 16);
      }
      for (int l = 0; l < kLanes; l++) {
        const int g = l / 4, t = l % 4;
        const unsigned first = TRANSPOSED ? rows[2 * t][g] : rows[g][2 * t];
        const unsigned second = TRANSPOSED ? rows[2 * t + 1][g] : rows[g][2 * t + 1];
        of_lane<LoadMatrix>(lanes, l).r[m] = first | second << 16;
      }
      if (counting) {
        unsigned ideal;
        counts.shared_load_wavefronts += wavefronts(address, active, 16, &ideal), counts.shared_load_ideal++;
      }
    }
    counts.load_matrix++, counts.shared_loads++;
  }
};

template <class T, int DEPTH>
struct Multiply {
  static constexpr const char* kName = "mma";
  float* c;
  const unsigned* a;
  unsigned b[2];
  static void run(void** lanes) {
    float A[16][DEPTH], B[DEPTH][8];
    for (int l = 0; l < kLanes; l++) {
      const Multiply& mine = of_lane<Multiply>(lanes, l);
      const int g = l / 4, t = l % 4;
      for (int h = 0; h < DEPTH / 8; h++) {
        const int k = 8 * h + 2 * t;
        A[g][k] = sasa::low<T>(mine.a[2 * h]), A[g][k + 1] = sasa::high<T>(mine.a[2 * h]);
        A[g + 8][k] = sasa::low<T>(mine.a[2 * h + 1]), A[g + 8][k + 1] = sasa::high<T>(mine.a[2 * h + 1]);
        B[k][g] = sasa::low<T>(mine.b[h]), B[k + 1][g] = sasa::high<T>(mine.b[h]);
      }
    }
    float C[16][8] = {};
    for (int i = 0; i < 16; i++) {
      for (int k = 0; k < DEPTH; k++) {
        for (int j = 0; j < 8; j++) C[i][j] += A[i][k] * B[k][j];
      }
    }
    for (int l = 0; l < kLanes; l++) {
      float* c = of_lane<Multiply>(lanes, l).c;
      for (int e = 0; e < 4; e++) c[e] += C[l / 4 + 8 * (e / 2)][2 * (l % 4) + e % 2];
    }
    (DEPTH == 16 ? counts.multiply16 : counts.multiply8)++;
  }
};

struct Transpose {
  static constexpr const char* kName = "movmatrix";
  unsigned x;
  static void run(void** lanes) {
    unsigned rows[8][8];
    for (int l = 0; l < kLanes; l++) {
      const unsigned x = of_lane<Transpose>(lanes, l).x;
      rows[l / 4][2 * (l % 4)] = x & 0xffff, rows[l / 4][2 * (l % 4) + 1] = x >> 16;
    }
    for (int l = 0; l < kLanes; l++) {
      of_lane<Transpose>(lanes, l).x = rows[2 * (l % 4)][l / 4] | rows[2 * (l % 4) + 1][l / 4] << 16;
    }
    counts.transposes++;
  }
};

template <class V>
struct Shuffle {
  static constexpr const char* kName = "shfl";
  V x;
  int from;
  static void run(void** lanes) {
    V all[kLanes];
    for (int l = 0; l < kLanes; l++) all[l] = of_lane<Shuffle>(lanes, l).x;
    for (int l = 0; l < kLanes; l++) of_lane<Shuffle>(lanes, l).x = all[of_lane<Shuffle>(lanes, l).from & 31];
    counts.shuffles += sizeof(V) > 4 ? 2 : 1;
  }
};

struct Any {
  static constexpr const char* kName = "vote";
  bool predicate;
  static void run(void** lanes) {
    bool found = false;
    for (int l = 0; l < kLanes; l++) found |= of_lane<Any>(lanes, l).predicate;
    for (int l = 0; l < kLanes; l++) of_lane<Any>(lanes, l).predicate = found;
    counts.votes++;
  }
};

}  // namespace emulation

namespace sasa {

template <int COUNT>
SASA_DEVICE void load_matrix(unsigned (&r)[COUNT], unsigned offset) {
  if (static_cast<int>(threadIdx.x % 32) < 8 * COUNT) emulation::touch_shared(offset, 16, false);
  emulation::LoadMatrix<COUNT, false> arguments{r, offset};
  emulation::perform(arguments);
}
template <int COUNT>
SASA_DEVICE void load_matrix_transposed(unsigned (&r)[COUNT], unsigned offset) {
  if (static_cast<int>(threadIdx.x % 32) < 8 * COUNT) emulation::touch_shared(offset, 16, false);
  emulation::LoadMatrix<COUNT, true> arguments{r, offset};
  emulation::perform(arguments);
}
template <class T>
SASA_DEVICE void multiply(float (&c)[4], unsigned a0, unsigned a1, unsigned b) {
  const unsigned a[2] = {a0, a1};
  emulation::Multiply<T, 8> arguments{c, a, {b, 0}};
  emulation::perform(arguments);
}
template <class T>
SASA_DEVICE void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  emulation::Multiply<T, 16> arguments{c, a, {b0, b1}};
  emulation::perform(arguments);
}
SASA_DEVICE unsigned transpose(unsigned x) {
  emulation::Transpose arguments{x};
  emulation::perform(arguments);
  return arguments.x;
}
template <class V>
SASA_DEVICE V shuffle(V x, int lane) {
  emulation::Shuffle<V> arguments{x, lane};
  emulation::perform(arguments);
  return arguments.x;
}
template <class V>
SASA_DEVICE V shuffle_xor(V x, int mask) {
  return shuffle(x, static_cast<int>(threadIdx.x % 32) ^ mask);
}
SASA_DEVICE bool any(bool predicate) {
  emulation::Any arguments{predicate};
  emulation::perform(arguments);
  return arguments.predicate;
}

}  // namespace sasa
