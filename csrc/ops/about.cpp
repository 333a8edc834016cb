// Facts about the library: its instruction set, the peak rate of this machine, and the state of CUDA.
#include "cuda_calls.h"
#include "cuda_compiler.h"
#include "cuda_driver.h"
#include "operators.h"

namespace sasa {

std::string cpu_kernels() { return kernels().name; }

std::string cpu_kernels_error() { return kernels_error() == nullptr ? "" : kernels_error(); }

// Runs on every thread at once: benchmarks compare with the peak of the machine.
double cpu_multiply_adds(int64_t rounds) {
  const Parallel pool = parallel();
  struct Context {
    int64_t rounds;
    std::vector<double> done;
  } context = {rounds, std::vector<double>(static_cast<size_t>(pool.threads))};
  const auto task = [](void* data, int64_t begin, int64_t end) {
    auto& work = *static_cast<Context*>(data);
    for (int64_t i = begin; i < end; ++i) work.done[static_cast<size_t>(i)] = kernels().multiply_adds(work.rounds);
  };
  pool.run(pool, pool.threads, task, &context);
  double total = 0;
  for (double done : context.done) total += done;
  return total;
}

std::string cuda_error() { return cuda::why_not_with_torch(); }

std::string cuda_error_on(int64_t device) {
  std::string error = cuda_error();
  if (!error.empty()) return error;
  try {
    cuda::device(static_cast<int>(device));
  } catch (const cuda::Error& found) {
    error = found.what();
  }
  return error;
}

std::tuple<std::string, std::string, std::string, int64_t> cuda_compiler() {
  const cuda::Nvrtc& nvrtc = cuda::nvrtc();
  const cuda::Cache cache = cuda::Cache::of_user();
  const std::string version = std::to_string(nvrtc.major) + "." + std::to_string(nvrtc.minor);
  return {version, nvrtc.file, cache.directory(), cache.count()};
}

}  // namespace sasa
