// CUDA sources to machine code: NVRTC, behind a cache on disk, on several threads. No torch, and no GPU is needed.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cuda/launch.h"
#include "cuda_cache.h"

namespace sasa::cuda {

// What NVRTC is asked for on behalf of a GPU: machine code of its own architecture or of an earlier one of the same
// generation, or, on a GPU that is newer than this NVRTC, PTX, which the driver translates.
struct Target {
  int architecture;  // 90 for compute capability 9.0
  bool ptx;
};
Target target_for(int architecture);  // raises an UnsupportedError on a GPU that this NVRTC does not compile for

// Compile one kernel now, without the cache. Raises an Error with the first line of what NVRTC says.
std::string compile(const Launch& launch, const Target& target);

// Requested kernels, by their full description. Each is compiled once: by its caller or by one of the threads that
// compile ahead, whichever comes first.
class Compiler {
 public:
  static Compiler& shared();
  explicit Compiler(Cache cache) : cache_(std::move(cache)) {}
  ~Compiler();

  // The machine code of `launch`. Waits for this kernel only.
  const std::string& binary(const Launch& launch, int architecture);
  // Begin on those that are neither in memory nor on disk, and say so on stderr.
  void work_ahead(const std::vector<Launch>& launches, int architecture);

  const Cache& cache() const { return cache_; }

 private:
  struct Batch {
    size_t kernels, left;
    std::chrono::steady_clock::time_point begin;
  };
  struct Job {
    Launch launch;
    Target target;
    std::string key;
    enum { waiting, running, done } state = waiting;
    std::string binary, error;
    std::shared_ptr<Batch> batch;  // that it was announced with
  };

  Job& job(const Launch& launch, int architecture);  // the mutex is held, here and below
  void run(Job& job, std::unique_lock<std::mutex>& lock);
  void finish(Job& job);
  void start_threads();
  void serve();

  const Cache cache_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::unique_ptr<Job>> jobs_;
  std::deque<Job*> queue_;
  std::vector<std::thread> threads_;
  bool stop_ = false;
};

}  // namespace sasa::cuda
