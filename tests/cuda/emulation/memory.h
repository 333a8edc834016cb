// The memory of the emulated GPU. Every access is checked: global memory against the list of buffers that the launch
// was given, shared memory against its size and for races. Copies by cp.async arrive only when they are waited for.
#pragma once
#include <cstring>
#include <deque>

#include "count.h"

namespace emulation {

struct Buffer {
  uintptr_t begin, end;
  bool writable;
};
inline std::vector<Buffer> buffers;  // empty: global memory is not checked

inline void check_aligned(const void* pointer, unsigned bytes) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes == 0) return;
  fail("a global access of %u bytes at an address that is not a multiple of it", bytes);
}

inline void check_global(const void* pointer, unsigned bytes, bool write) {
  check_aligned(pointer, bytes);
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  if (buffers.empty()) return;
  for (const Buffer& buffer : buffers) {
    if (begin >= buffer.begin && begin + bytes <= buffer.end) {
      if (write && !buffer.writable) fail("a store into a buffer that is only read");
      return;
    }
  }
  fail("a global %s of %u bytes outside of all buffers", write ? "store" : "load", bytes);
}

constexpr unsigned kMostShared = 227 * 1024;
alignas(128) inline char shared[kMostShared];
inline unsigned shared_bytes = 0;

// Who last wrote and read each two bytes of shared memory, and when.
struct Touch {
  unsigned thread, warp_interval, block_interval;
};
struct Cell {
  Touch written, read;
  bool read_by_several;
};
inline std::vector<Cell> cells;

// Whether what `touch` did is ordered before what the current thread does now.
inline bool ordered(const Touch& touch) {
  const unsigned self = current_thread();
  if (touch.block_interval != machine.interval || touch.thread == self) return true;
  return touch.thread / kLanes == self / kLanes && touch.warp_interval != machine.warp->interval;
}

inline void touch_shared(unsigned offset, unsigned bytes, bool write) {
  if (offset % bytes != 0) fail("a shared access of %u bytes at offset %u, not a multiple of it", bytes, offset);
  if (offset + bytes > shared_bytes) {
    fail("a shared access of %u bytes at offset %u of %u", bytes, offset, shared_bytes);
  }
  const Touch now{current_thread(), machine.warp->interval, machine.interval};
  for (unsigned c = offset / 2; c < (offset + bytes + 1) / 2; c++) {
    Cell& cell = cells[c];
    if (!ordered(cell.written)) {
      fail("a race: shared offset %u was written by thread %u since the last barrier", 2 * c, cell.written.thread);
    }
    if (write) {
      if (!ordered(cell.read)) {
        fail("a race: shared offset %u was read by thread %u since the last barrier", 2 * c, cell.read.thread);
      }
      cell.written = now;
    } else if (ordered(cell.read)) {  // else keep the reader that is still in question
      cell.read = now;
    }
  }
}

// A copy by cp.async on its way.
struct Copy {
  unsigned offset;
  const void* source;  // nullptr: zeros
};
struct Copies {
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};
inline std::vector<Copies> copies;  // of each thread

inline void arrive(const std::vector<Copy>& group) {
  for (const Copy& copy : group) {
    touch_shared(copy.offset, 16, true);
    if (copy.source != nullptr) {
      std::memcpy(shared + copy.offset, copy.source, 16);
    } else {
      std::memset(shared + copy.offset, 0, 16);
    }
  }
}

inline void before_block(unsigned threads) {
  std::memset(shared, 0xff, shared_bytes);  // NaN in every type
  machine.interval++;
  copies.resize(threads);
  for (Copies& of_thread : copies) of_thread.open.clear(), of_thread.groups.clear();
  if (counting) counts.blocks++;
}

// Runs a kernel. Returns a sentence where it went wrong, else nullptr.
inline const char* launch(Dim3 grid, unsigned threads, unsigned shared_size, const std::function<void()>& kernel) {
  if (shared_size > kMostShared) return "more than 227 KB of shared memory";
  shared_bytes = shared_size;
  cells.assign(shared_size / 2 + 8, Cell());
  for (auto& lane : accesses) lane.clear();
  machine.warp_met = counting ? count_requests : nullptr;
  run_blocks(grid, threads, kernel, [threads] { before_block(threads); });
  return machine.error[0] != 0 ? machine.error : nullptr;
}

}  // namespace emulation
