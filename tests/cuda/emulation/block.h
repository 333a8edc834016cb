// Runs the threads of a block on one CPU thread. The lanes of a warp go on in turn, each up to its next warp operation;
// the last to come performs the operation for all of them. So a warp runs in lockstep from operation to operation, and
// lanes that meet at different ones, or that leave while others wait, are an error.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "fibers.h"

namespace emulation {

constexpr int kLanes = 32;

struct Dim3 {
  unsigned x, y, z;
};

// An operation that the lanes of a warp meet at: `run` gets what each lane brought. nullptr: the warp stops there until
// the whole block has come.
struct Operation {
  const char* name;
  void (*run)(void** lanes);
};

struct Warp {
  const Operation* operation = nullptr;
  void* brought[kLanes];
  int lane = 0;           // whose turn it is
  unsigned interval = 1;  // since the last __syncwarp or __syncthreads
  unsigned first = 0;     // thread of the block
};

// What is being run. One at a time in a process.
struct Machine {
  Fiber main;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  Warp* warp = nullptr;
  const std::function<void()>* body = nullptr;
  Fiber* switched_from = nullptr;
  unsigned interval = 1;  // since the last __syncthreads
  bool stale = true;      // fibers stopped in the middle of a failed launch
  char error[512] = "";
  void (*warp_met)() = nullptr;  // called when a warp has met, before its operation
  void (*block_met)() = nullptr;
};
inline Machine machine;

inline Dim3 thread_index, block_index, block_size, grid_size;

inline unsigned current_thread() { return thread_index.x; }

inline void switch_fiber(Fiber& to) {
  Fiber& from = machine.warp ? *machine.fibers[machine.warp->first + machine.warp->lane] : machine.main;
  machine.switched_from = &from;
  Fiber::switch_to(from, to);
}

// Ends the launch with a sentence. Where in the block it happened is added.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  char sentence[384];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(sentence, sizeof sentence, format, arguments);
  va_end(arguments);
  std::snprintf(machine.error, sizeof machine.error, "%s (thread %u of block %u, %u, %u)", sentence, thread_index.x,
                block_index.x, block_index.y, block_index.z);
  machine.stale = true;
  switch_fiber(machine.main);
  __builtin_unreachable();
}

inline const Operation kBarrier{"__syncthreads", nullptr};
inline const Operation kExit{"the end of the kernel", nullptr};

// The calling lane brings `data` to the operation and goes on when all lanes of its warp have.
inline void meet(const Operation& operation, void* data) {
  Warp& warp = *machine.warp;
  const int lane = warp.lane;
  if (lane == 0) {
    warp.operation = &operation;
  } else if (warp.operation != &operation) {
    fail("lane 0 has come to %s and lane %d to %s", warp.operation->name, lane, operation.name);
  }
  warp.brought[lane] = data;
  Fiber& self = *machine.fibers[warp.first + lane];
  machine.switched_from = &self;
  if (lane + 1 < kLanes) {
    warp.lane = lane + 1;
    thread_index.x = warp.first + lane + 1;
    Fiber::switch_to(self, *machine.fibers[warp.first + lane + 1]);
    return;
  }
  if (machine.warp_met != nullptr) machine.warp_met();
  if (operation.run == nullptr) {
    Fiber::switch_to(self, machine.main);
    return;
  }
  operation.run(warp.brought);
  warp.lane = 0;
  thread_index.x = warp.first;
  Fiber::switch_to(self, *machine.fibers[warp.first]);
}

inline void fiber_entry() {
  Fiber::entered(*machine.switched_from);
  for (;;) {
    (*machine.body)();
    meet(kExit, nullptr);
  }
}

// Runs every warp of the block up to its next barrier or its end. True if the block has ended.
inline bool run_to_barrier() {
  const Operation* stopped = nullptr;
  for (Warp& warp : machine.warps) {
    warp.lane = 0;
    thread_index = {warp.first, 0, 0};
    machine.warp = &warp;
    machine.switched_from = &machine.main;
    Fiber::switch_to(machine.main, *machine.fibers[warp.first]);
    machine.warp = nullptr;
    if (machine.error[0] != 0) return true;
    if (stopped == nullptr) stopped = warp.operation;
    if (stopped != warp.operation) {
      std::snprintf(machine.error, sizeof machine.error,
                    "warp 0 has come to %s and another warp to %s (block %u, %u, %u)", stopped->name,
                    warp.operation->name, block_index.x, block_index.y, block_index.z);
      machine.stale = true;
      return true;
    }
    warp.interval++;
  }
  machine.interval++;
  if (machine.block_met != nullptr) machine.block_met();
  return stopped == &kExit;
}

// Runs `body` in every thread of one block after the other.
inline void run_blocks(Dim3 grid, unsigned threads, const std::function<void()>& body,
                       const std::function<void()>& before_block) {
  machine.error[0] = 0;
  if (threads == 0 || threads % kLanes != 0 || threads > 1024) {
    std::snprintf(machine.error, sizeof machine.error, "%u threads a block are not a multiple of 32 up to 1024",
                  threads);
    return;
  }
  machine.body = &body;
  grid_size = grid, block_size = {threads, 1, 1};
  if (machine.stale) machine.fibers.clear(), machine.stale = false;
  while (machine.fibers.size() < threads) {
    machine.fibers.push_back(std::make_unique<Fiber>());
    machine.fibers.back()->start(fiber_entry);
  }
  machine.warps.assign(threads / kLanes, Warp());
  for (unsigned w = 0; w < threads / kLanes; w++) machine.warps[w].first = w * kLanes;
  for (unsigned z = 0; z < grid.z; z++) {
    for (unsigned y = 0; y < grid.y; y++) {
      for (unsigned x = 0; x < grid.x; x++) {
        block_index = {x, y, z};
        before_block();
        while (!run_to_barrier()) {
        }
        if (machine.error[0] != 0) return;
      }
    }
  }
}

}  // namespace emulation
