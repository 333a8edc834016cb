// The tables of kernels, one per instruction set of this architecture. kernels.cpp is compiled once for each, with
// -DSASA_ISA=<name>, and defines `const sasa::Kernels& sasa::SASA_TABLE()`; dispatch.cpp chooses one.
#pragma once
#include "kernels.h"

#define SASA_JOIN_NAMES(a, b) a##b
#define SASA_JOIN(a, b) SASA_JOIN_NAMES(a, b)
#define SASA_QUOTE_NAME(a) #a
#define SASA_QUOTE(a) SASA_QUOTE_NAME(a)

#define SASA_TABLE SASA_JOIN(kernels_, SASA_ISA)  // kernels_avx512
#define SASA_ISA_NAME SASA_QUOTE(SASA_ISA)        // "avx512"

namespace sasa {

#if defined(__x86_64__)
const Kernels& kernels_avx512();
const Kernels& kernels_avx2();
#elif defined(__aarch64__)
const Kernels& kernels_neon();
#endif
const Kernels& kernels_portable();

}  // namespace sasa
