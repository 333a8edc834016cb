// What the plans ask about maps and tables: sizes of elements, and to how many bytes everything is aligned. Host C++.
#pragma once
#include <initializer_list>

#include "kernels.h"

namespace sasa {

inline size_t element_bytes(Storage storage) {
  switch (storage) {
    case Storage::float64: return 8;
    case Storage::float32: return 4;
    default: return 2;
  }
}

inline size_t compute_bytes(Storage storage) { return storage == Storage::float64 ? 8 : 4; }

// The largest power of two up to 16 that divides all numbers.
inline size_t common_power(size_t all_bits) {
  size_t power = 16;
  while (power > 1 && all_bits % power != 0) power /= 2;
  return power;
}

inline size_t alignment_of(std::initializer_list<const void*> pointers) {
  size_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<size_t>(pointer);
  return common_power(bits);
}

// Bytes to which the first channel of every pixel is aligned, at most 16; 1 where channels do not lie side by side.
// Maps that are not given do not count.
inline size_t alignment(std::initializer_list<Map> maps, size_t element) {
  size_t bits = 0;
  for (const Map& map : maps) {
    if (map.data == nullptr) continue;
    if (map.stride[1] != 1) return 1;
    bits |= reinterpret_cast<size_t>(map.data);
    for (int i : {0, 2, 3}) bits |= static_cast<size_t>(map.stride[i]) * element;
  }
  return common_power(bits);
}

}  // namespace sasa
