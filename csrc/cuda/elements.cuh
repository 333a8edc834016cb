// Numbers as the kernels outside of the tensor cores see them: elements as they are stored, sums as they are computed.
// The build gives -DSASA_STORAGE=n, a number of the enumeration Storage.
#pragma once
#include "device.h"
#include "kernels.h"

namespace sasa {

template <int STORAGE>
struct ElementOf;
template <>
struct ElementOf<0> {
  using type = float;
};
template <>
struct ElementOf<1> {
  using type = double;
};
template <>
struct ElementOf<2> {
  using type = bfloat16;
};
template <>
struct ElementOf<3> {
  using type = float16;
};
using Element = ElementOf<SASA_STORAGE>::type;
using Compute = ComputeType<Element>::type;

template <class T>
SASA_DEVICE Element to_element(T x) {
  if constexpr (sizeof(T) == 8) {
    return x;
  } else {
    return from_float<Element>(x);
  }
}

// Logits are kept in units in which the exponential is cheap: times log2(e) for float.
template <class T>
constexpr T kUnit = T(1);
template <>
constexpr float kUnit<float> = kLog2E;

SASA_DEVICE float exponential(float logit) { return exp2_approx(logit); }
SASA_DEVICE double exponential(double logit) { return exp(logit); }
// The natural logarithm of a sum of exponentials of logits whose maximum was taken off before.
SASA_DEVICE float log_sum(float maximum, float sum) { return maximum * kLn2 + logf(sum); }
SASA_DEVICE double log_sum(double maximum, double sum) { return maximum + log(sum); }

SASA_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
SASA_DEVICE double larger(double a, double b) { return fmax(a, b); }

// What is taken off logits with this maximum: nothing where it is infinite, so that infinities come out as the logarithm
// of a sum of exponentials has them, and not as NaN.
SASA_DEVICE Compute finite_shift(Compute maximum) {
  return maximum == infinity() || maximum == -infinity() ? Compute(0) : maximum;
}

template <int N>
SASA_DEVICE Compute dot(const Compute (&a)[N], const Compute (&b)[N], Compute start) {
#pragma unroll
  for (int i = 0; i < N; i++) start += a[i] * b[i];
  return start;
}

// to += factor * x
template <int N>
SASA_DEVICE void add_scaled(Compute (&to)[N], Compute factor, const Compute (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) to[i] += factor * x[i];
}

template <class T>
SASA_DEVICE const T* at(const Map& map, int64_t b, int64_t channel, int64_t y, int64_t x) {
  return static_cast<const T*>(map.data) + b * map.stride[0] + channel * map.stride[1] + y * map.stride[2] +
         x * map.stride[3];
}

}  // namespace sasa
