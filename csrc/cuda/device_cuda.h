// The primitives of device.h as CUDA C++ and inline PTX, for NVRTC and nvcc.
#pragma once

#define SASA_DEVICE __device__ __forceinline__
#define SASA_KERNEL(...) extern "C" __global__ __launch_bounds__(__VA_ARGS__)
#define SASA_ARGUMENT const __grid_constant__

extern __shared__ __align__(128) char sasa_dynamic_shared[];

namespace sasa {

SASA_DEVICE float infinity() { return __int_as_float(0x7f800000); }
SASA_DEVICE float quiet_nan() { return __int_as_float(0x7fc00000); }
SASA_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SASA_DEVICE float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

SASA_DEVICE float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

SASA_DEVICE float to_float(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
SASA_DEVICE float to_float(float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
template <class T>
SASA_DEVICE T from_float(float x) {
  return static_cast<T>(x);
}
template <>
SASA_DEVICE bfloat16 from_float<bfloat16>(float x) {
  bfloat16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
SASA_DEVICE float16 from_float<float16>(float x) {
  float16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

template <class T>
SASA_DEVICE unsigned pack(float low, float high);
template <>
SASA_DEVICE unsigned pack<bfloat16>(float low, float high) {
  unsigned y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
template <>
SASA_DEVICE unsigned pack<float16>(float low, float high) {
  unsigned y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
template <class T>
SASA_DEVICE float low(unsigned pair) {
  return to_float(T{static_cast<unsigned short>(pair)});
}
template <class T>
SASA_DEVICE float high(unsigned pair) {
  return to_float(T{static_cast<unsigned short>(pair >> 16)});
}

SASA_DEVICE unsigned shared_address(unsigned offset) {
  return static_cast<unsigned>(__cvta_generic_to_shared(sasa_dynamic_shared)) + offset;
}
template <class V>
SASA_DEVICE V load_shared(unsigned offset) {
  return *reinterpret_cast<const V*>(sasa_dynamic_shared + offset);
}
template <class V>
SASA_DEVICE void store_shared(unsigned offset, V value) {
  *reinterpret_cast<V*>(sasa_dynamic_shared + offset) = value;
}
template <class V>
SASA_DEVICE V load_global(const V* pointer) {
  return *pointer;
}
template <class V>
SASA_DEVICE void store_global(V* pointer, V value) {
  *pointer = value;
}

SASA_DEVICE void copy_async(unsigned offset, const void* source, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(offset)), "l"(source),
               "r"(inside ? 16 : 0)
               : "memory");
}
SASA_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
SASA_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

template <int COUNT>
SASA_DEVICE void load_matrix(unsigned (&r)[COUNT], unsigned offset) {
  static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4, "ldmatrix loads 1, 2 or 4 matrices");
  const unsigned address = shared_address(offset);
  if constexpr (COUNT == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
  } else if constexpr (COUNT == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}
template <int COUNT>
SASA_DEVICE void load_matrix_transposed(unsigned (&r)[COUNT], unsigned offset) {
  static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4, "ldmatrix loads 1, 2 or 4 matrices");
  const unsigned address = shared_address(offset);
  if constexpr (COUNT == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
  } else if constexpr (COUNT == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

template <class T>
SASA_DEVICE void multiply(float (&c)[4], unsigned a0, unsigned a1, unsigned b);
template <>
SASA_DEVICE void multiply<bfloat16>(float (&c)[4], unsigned a0, unsigned a1, unsigned b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(b));
}
template <>
SASA_DEVICE void multiply<float16>(float (&c)[4], unsigned a0, unsigned a1, unsigned b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(b));
}
template <class T>
SASA_DEVICE void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
SASA_DEVICE void multiply<bfloat16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
SASA_DEVICE void multiply<float16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

SASA_DEVICE unsigned transpose(unsigned x) {
  unsigned y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
template <class V>
SASA_DEVICE V shuffle(V x, int lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}
template <class V>
SASA_DEVICE V shuffle_xor(V x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
SASA_DEVICE bool any(bool predicate) { return __any_sync(0xffffffffu, predicate); }

}  // namespace sasa
