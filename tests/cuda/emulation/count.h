// What a launch did, as a profiler of a GPU would count it. The lanes' accesses between two warp operations are put
// together into requests of a warp: the n-th access of each lane at the same place of the source is one request.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "block.h"

namespace emulation {

// All but `blocks` are sums over the warps of a launch.
struct Counts {
  uint64_t blocks, multiply16, multiply8, load_matrix, transposes, shuffles, votes, barriers, warp_barriers,
      exponentials;
  // Requests, and the wavefronts that they take: `ideal` without bank conflicts.
  uint64_t shared_loads, shared_load_wavefronts, shared_load_ideal;  // ldmatrix included
  uint64_t shared_stores, shared_store_wavefronts, shared_store_ideal;
  uint64_t copies, copy_wavefronts, copy_ideal, copy_sectors, copy_bytes;  // cp.async
  uint64_t global_loads, global_load_sectors, global_load_bytes;
  uint64_t global_stores, global_store_sectors, global_store_bytes;
};
inline Counts counts;
inline bool counting = false;

enum class Kind { shared_load, shared_store, global_load, global_store, copy };

struct Access {
  const void* file;
  int line;
  Kind kind;
  unsigned nth;  // access of this lane at this place since the last warp operation
  uintptr_t address, source;
  unsigned bytes;
  bool taken = false;
};
inline std::vector<Access> accesses[kLanes];

inline void count_access(Kind kind, uintptr_t address, unsigned bytes, const char* file, int line,
                         uintptr_t source = 0) {
  auto& mine = accesses[machine.warp->lane];
  unsigned nth = 0;
  for (auto& other : mine) nth += other.line == line && other.file == file && other.kind == kind;
  mine.push_back({file, line, kind, nth, address, source, bytes});
}

// The wavefronts of one request to shared memory: 32 banks of 4 bytes. Requests of 8 and 16 bytes a lane go in 2 and 4
// parts of the warp.
inline unsigned wavefronts(const uintptr_t* address, const bool* active, unsigned bytes, unsigned* ideal) {
  const unsigned parts = bytes <= 4 ? 1 : bytes / 4, lanes = kLanes / parts;
  unsigned total = 0;
  *ideal = 0;
  for (unsigned part = 0; part < parts; part++) {
    std::vector<uintptr_t> words[32];
    unsigned most = 0;
    for (unsigned l = part * lanes; l < (part + 1) * lanes; l++) {
      if (!active[l]) continue;
      for (uintptr_t word = address[l] / 4; word <= (address[l] + bytes - 1) / 4; word++) {
        auto& bank = words[word % 32];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
        most = std::max(most, static_cast<unsigned>(bank.size()));
      }
    }
    total += most;
    *ideal += most != 0;
  }
  return total;
}

inline unsigned sectors(const uintptr_t* address, const bool* active, unsigned bytes) {
  std::vector<uintptr_t> all;
  for (int l = 0; l < kLanes; l++) {
    if (!active[l]) continue;
    for (uintptr_t sector = address[l] / 32; sector <= (address[l] + bytes - 1) / 32; sector++) all.push_back(sector);
  }
  std::sort(all.begin(), all.end());
  return static_cast<unsigned>(std::unique(all.begin(), all.end()) - all.begin());
}

inline void count_request(Kind kind, const uintptr_t* address, const uintptr_t* source, const bool* active,
                          unsigned bytes) {
  uint64_t used = 0;
  for (int l = 0; l < kLanes; l++) used += active[l] ? bytes : 0;
  unsigned ideal = 0, taken = 0;
  if (kind != Kind::global_load && kind != Kind::global_store) taken = wavefronts(address, active, bytes, &ideal);
  switch (kind) {
    case Kind::shared_load:
      counts.shared_loads++, counts.shared_load_wavefronts += taken, counts.shared_load_ideal += ideal;
      break;
    case Kind::shared_store:
      counts.shared_stores++, counts.shared_store_wavefronts += taken, counts.shared_store_ideal += ideal;
      break;
    case Kind::global_load:
      counts.global_loads++, counts.global_load_sectors += sectors(address, active, bytes);
      counts.global_load_bytes += used;
      break;
    case Kind::global_store:
      counts.global_stores++, counts.global_store_sectors += sectors(address, active, bytes);
      counts.global_store_bytes += used;
      break;
    case Kind::copy: {
      bool inside[kLanes];
      uint64_t read = 0;
      for (int l = 0; l < kLanes; l++) inside[l] = active[l] && source[l] != 0, read += inside[l] ? bytes : 0;
      counts.copies++, counts.copy_wavefronts += taken, counts.copy_ideal += ideal;
      counts.copy_sectors += sectors(source, inside, bytes), counts.copy_bytes += read;
      break;
    }
  }
}

// Called when a warp has met: the accesses since the last time become requests.
inline void count_requests() {
  for (int first = 0; first < kLanes; first++) {
    for (auto& access : accesses[first]) {
      if (access.taken) continue;
      uintptr_t address[kLanes] = {}, source[kLanes] = {};
      bool active[kLanes] = {};
      for (int l = first; l < kLanes; l++) {
        for (auto& other : accesses[l]) {
          if (other.taken || other.line != access.line || other.file != access.file || other.kind != access.kind ||
              other.nth != access.nth) {
            continue;
          }
          address[l] = other.address, source[l] = other.source, active[l] = true;
          if (&other != &access) other.taken = true;
          break;
        }
      }
      access.taken = true;
      count_request(access.kind, address, source, active, access.bytes);
    }
  }
  for (auto& lane : accesses) lane.clear();
}

}  // namespace emulation
