// Vectors for every instruction set: the vector extensions of gcc and clang, and intrinsics or plain code for the rest.
//
// Only kernels.cpp includes this file, once per instruction set. Everything is in an anonymous namespace, so that no
// two translation units share a symbol.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define SASA_INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRegisters = 32;  // vector registers
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 32;
#else
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T, int L>
struct VecOf {
  typedef T type __attribute__((vector_size(L * sizeof(T))));
  typedef T unaligned __attribute__((vector_size(L * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class T, int L>
using Vec = typename VecOf<T, L>::type;
template <class T>
using IntFor = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

template <class T, int L>
SASA_INLINE Vec<T, L> load(const T* from) {
  return *reinterpret_cast<const typename VecOf<T, L>::unaligned*>(from);
}

// Keep a vector in a register. Otherwise gcc loads it again for each use, which costs more than the uses themselves.
template <class V>
SASA_INLINE void keep_in_register(V& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#else
  (void)v;
#endif
}

template <class T, int L>
SASA_INLINE void store(T* to, Vec<T, L> v) {
  *reinterpret_cast<typename VecOf<T, L>::unaligned*>(to) = v;
}

template <class T, int L>
SASA_INLINE Vec<T, L> splat(T value) {
  return Vec<T, L>{} + value;
}

template <class T, int L>
SASA_INLINE Vec<T, L> minus_infinity() {
  return splat<T, L>(-std::numeric_limits<T>::infinity());
}

// The larger of each pair; b where either is NaN, as the instruction defines it.
template <class T, int L>
SASA_INLINE Vec<T, L> maximum(Vec<T, L> a, Vec<T, L> b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && L == 16) return (Vec<T, L>)_mm512_max_ps((__m512)a, (__m512)b);
#endif
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && L == 8) return (Vec<T, L>)_mm256_max_ps((__m256)a, (__m256)b);
#endif
  return a > b ? a : b;
}

template <class T, int L>
SASA_INLINE bool any_nan(Vec<T, L> v) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && L == 16) return _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q) != 0;
#endif
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && L == 8)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q)) != 0;
#endif
  bool found = false;
  for (int lane = 0; lane < L; ++lane) found |= v[lane] != v[lane];
  return found;
}

// Whether all numbers are finite.
template <class T>
bool all_finite(const T* numbers, int64_t count) {
  T sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += numbers[i] * 0;
  return sum == 0;
}

// 0, 1, 2, ...
template <class T, int L>
SASA_INLINE Vec<IntFor<T>, L> lane_indices() {
  Vec<IntFor<T>, L> indices;
  for (int lane = 0; lane < L; ++lane) indices[lane] = lane;
  return indices;
}

template <class T, int L>
SASA_INLINE T sum_lanes(const T* values) {
  T sum = 0;
  for (int lane = 0; lane < L; ++lane) sum += values[lane];
  return sum;
}

// 2**x for x <= 0, with a relative error of 1e-7. Results below 2**-126 may be 0. 2**-inf is 0; NaN stays NaN.
template <class T, int L>
SASA_INLINE Vec<T, L> exp2_negative(Vec<T, L> x) {
  if constexpr (std::is_same_v<T, double>) {
    for (int lane = 0; lane < L; ++lane) x[lane] = __builtin_exp2(x[lane]);
    return x;
  } else {
    using V = Vec<float, L>;
    [[maybe_unused]] typedef Vec<int32_t, L> I;
#if defined(__AVX512F__)
    V f;  // x minus the nearest integer; 0 for infinity
    if constexpr (L == 16) f = (V)_mm512_reduce_ps((__m512)x, 0);
    if constexpr (L == 8) f = (V)_mm256_reduce_ps((__m256)x, 0);
    const V whole = x - f;
#else
    // Adding 1.5 * 2**23 rounds to an integer and leaves it in the low bits of the sum; adding 127 as well makes them
    // the exponent of a float, which is 0 (the number 0) for x = -127. NaN is preserved by the order of the arguments
    // of `maximum`, and by multiplying at the end instead of adding to the exponent.
    constexpr float magic = 12582912.0f + 127.0f;
    x = maximum<float, L>(splat<float, L>(-127.0f), x);
    const V shifted = x + magic;
    const V f = x - (shifted - magic);
#endif
    // The minimax polynomial on [-1/2, 1/2].
    V p = splat<float, L>(1.32647270e-03f);
    p = p * f + 9.67151265e-03f;
    p = p * f + 5.55073374e-02f;
    p = p * f + 2.40222421e-01f;
    p = p * f + 6.93146978e-01f;
    p = p * f + 1.0f;
#if defined(__AVX512F__)
    if constexpr (L == 16) return (V)_mm512_scalef_ps((__m512)p, (__m512)whole);
    if constexpr (L == 8) return (V)_mm256_scalef_ps((__m256)p, (__m256)whole);
#else
    return p * (V)((I)shifted << 23);
#endif
  }
}

// log2(x) for x in [2**-126, 2**126], with an absolute error of 1e-7. NaN stays NaN.
template <class T, int L>
SASA_INLINE Vec<T, L> log2_positive(Vec<T, L> x) {
  if constexpr (std::is_same_v<T, double>) {
    for (int lane = 0; lane < L; ++lane) x[lane] = __builtin_log2(x[lane]);
    return x;
  } else {
    using V = Vec<float, L>;
    using I = Vec<int32_t, L>;
    // x = m * 2**e with m in [sqrt(1/2), sqrt(2)); log m by the series of artanh((m - 1) / (m + 1)).
    const I bits = (I)x - 0x3f3504f3;
    const I e = bits >> 23;
    const V m = (V)((bits & 0x7fffff) + 0x3f3504f3);
    const V t = (m - 1.0f) / (m + 1.0f);
    const V t2 = t * t;
    V p = splat<float, L>(0.320598898f);
    p = p * t2 + 0.412198583f;
    p = p * t2 + 0.577078016f;
    p = p * t2 + 0.961796694f;
    p = p * t2 + 2.885390082f;
    return __builtin_convertvector(e, V) + p * t + (x - x);
  }
}

// ------------------------------------------------------------------------------------------------- storage types

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// Conversions in plain code: compilers before gcc 12 have no float16 type, and others call their runtime library.
[[maybe_unused]] inline float widen_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7fff;
  uint32_t bits = (rest << 13) + (112u << 23);  // exponents count from 15 there and from 127 here
  if (rest >= 0x7c00) bits += 112u << 23;       // infinity and NaN
  float wide;
  if (rest < 0x0400) {
    wide = static_cast<float>(rest) * 5.9604644775390625e-08f;  // subnormal: rest * 2**-24
    memcpy(&bits, &wide, 4);
  }
  bits |= sign;
  memcpy(&wide, &bits, 4);
  return wide;
}

[[maybe_unused]] inline uint16_t narrow_half(float wide) {
  uint32_t bits;
  memcpy(&bits, &wide, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to infinity
  if (bits < 0x38800000) {  // subnormal or zero: adding 1/2 leaves a multiple of 2**-24 in the low bits, rounded
    float small;
    memcpy(&small, &bits, 4);
    small += 0.5f;
    memcpy(&bits, &small, 4);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000));
  }
  bits += 0xfff + (bits >> 13 & 1);
  return static_cast<uint16_t>(sign | ((bits >> 13) - (112u << 10)));
}

template <class T, class S>
SASA_INLINE T widen(S value) {
  if constexpr (std::is_same_v<S, bfloat16>) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
  } else if constexpr (std::is_same_v<S, float16>) {
#if defined(__F16C__)
    return _cvtsh_ss(value.bits);
#else
    return widen_half(value.bits);
#endif
  } else {
    return static_cast<T>(value);
  }
}

// Round to nearest, ties to even.
template <class S, class T>
SASA_INLINE S narrow(T value) {
  if constexpr (std::is_same_v<S, bfloat16>) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return {static_cast<uint16_t>((bits >> 16) | 64)};  // NaN stays NaN
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
  } else if constexpr (std::is_same_v<S, float16>) {
#if defined(__F16C__)
    return {static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))};
#else
    return {narrow_half(value)};
#endif
  } else {
    return static_cast<S>(value);
  }
}

// ------------------------------------------------------------------------------- 8 x 8 transposes on AVX registers

#if defined(__AVX2__)
SASA_INLINE __m256 load8(const float* from) { return _mm256_loadu_ps(from); }
SASA_INLINE __m256 load8(const float16* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
SASA_INLINE __m256 load8(const bfloat16* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

SASA_INLINE void store8(float* to, __m256 v) { _mm256_storeu_ps(to, v); }
SASA_INLINE void store8(float16* to, __m256 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
SASA_INLINE void store8(bfloat16* to, __m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}

SASA_INLINE void transpose8(__m256 (&m)[8]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_ps(m[2 * i], m[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_ps(m[2 * i], m[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
    b[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
    b[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
    b[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    m[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    m[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}
#endif

}  // namespace
