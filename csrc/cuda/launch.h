// A launch of a CUDA kernel, as the plans give it: which source to compile how, and the grid. Plain host C++.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sasa {

struct Define {
  const char* name;
  int value;
};

struct Launch {
  const char* source = nullptr;  // file of csrc/cuda; nullptr: nothing to launch
  const char* kernel = nullptr;  // its extern "C" name
  Define defines[12] = {};       // those of them that are used
  int define_count = 0;
  unsigned grid[3] = {1, 1, 1};
  unsigned threads = 0;  // of a block
  size_t shared = 0;     // bytes of dynamic shared memory

  void define(const char* name, int value) { defines[define_count++] = {name, value}; }
};

}  // namespace sasa
