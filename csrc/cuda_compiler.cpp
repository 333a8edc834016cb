#include "cuda_compiler.h"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <cstdio>
#include <system_error>

#include "cuda_api.h"
#include "cuda_sources.h"

namespace sasa::cuda {
namespace {

const char* source_text(const char* name) {
  for (int i = 0; i < source_file_count; ++i)
    if (std::string(source_files[i].name) == name) return source_files[i].text;
  throw Error(std::string("this library has no CUDA source ") + name);
}

std::vector<std::string> options_of(const Launch& launch, const Target& target) {
  std::vector<std::string> options = {
      std::string("--gpu-architecture=") + (target.ptx ? "compute_" : "sm_") + std::to_string(target.architecture),
      "--std=c++17", "--device-as-default-execution-space"};
  for (int i = 0; i < launch.define_count; ++i)
    options.push_back(std::string("-D") + launch.defines[i].name + "=" + std::to_string(launch.defines[i].value));
  return options;
}

// All that the machine code depends on.
std::string describe(const Launch& launch, const Target& target) {
  std::string key = std::string(sources_digest) + "\n" + launch.source + " " + launch.kernel + "\n";
  for (const std::string& option : options_of(launch, target)) key += option + " ";
  return key + "\nNVRTC " + std::to_string(nvrtc().major) + "." + std::to_string(nvrtc().minor) + "\n";
}

// The first line of a log that reports an error, else all of it.
std::string first_error(const std::string& log) {
  for (size_t begin = 0; begin < log.size();) {
    const size_t end = std::min(log.find('\n', begin), log.size());
    const std::string line = log.substr(begin, end - begin);
    if (line.find("error") != std::string::npos) return line;
    begin = end + 1;
  }
  return log;
}

// A program of NVRTC, for as long as this lives.
class Compilation {
 public:
  explicit Compilation(const Launch& launch) : kernel_(launch.kernel) {
    std::vector<const char*> names, texts;
    for (int i = 0; i < source_file_count; ++i) {
      names.push_back(source_files[i].name);
      texts.push_back(source_files[i].text);
    }
    const int headers = static_cast<int>(names.size());
    check(nvrtc().create(&program_, source_text(launch.source), launch.source, headers, texts.data(), names.data()));
  }
  ~Compilation() { nvrtc().destroy(&program_); }
  Compilation(const Compilation&) = delete;

  std::string run(const std::vector<std::string>& options, bool ptx) {
    std::vector<const char*> arguments;
    for (const std::string& option : options) arguments.push_back(option.c_str());
    const int result = nvrtc().compile(program_, static_cast<int>(arguments.size()), arguments.data());
    if (result != 0) {
      const std::string log = text(nvrtc().log_size, nvrtc().log);
      throw Error("the CUDA kernel " + kernel_ + " did not compile (" + options[0] + "): " + first_error(log));
    }
    return ptx ? text(nvrtc().ptx_size, nvrtc().ptx) : text(nvrtc().cubin_size, nvrtc().cubin);
  }

 private:
  void check(int result) const {
    if (result != 0) throw Error("NVRTC failed on the CUDA kernel " + kernel_ + ": " + nvrtc().error_string(result));
  }

  std::string text(int (*size_of)(Program, size_t*), int (*get)(Program, char*)) const {
    size_t size = 0;
    check(size_of(program_, &size));
    std::string result(size, '\0');
    check(get(program_, result.data()));
    return result;
  }

  std::string kernel_;
  Program program_ = nullptr;
};

unsigned cores() {  // that this process may use
#ifdef __linux__
  cpu_set_t mine;
  if (sched_getaffinity(0, sizeof mine, &mine) == 0) return static_cast<unsigned>(CPU_COUNT(&mine));
#endif
  return std::max(1U, std::thread::hardware_concurrency());
}

// A forked child has none of its parent's threads, and must not wait for them.
bool forked = false;
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

Target target_for(int architecture) {
  const std::vector<int>& supported = nvrtc().supported;
  if (architecture > supported.back()) return {supported.back(), true};
  const auto next = std::upper_bound(supported.begin(), supported.end(), architecture);
  if (next == supported.begin() || *(next - 1) / 10 != architecture / 10) {
    throw UnsupportedError("this GPU's architecture, sm_" + std::to_string(architecture) + ", is not one that NVRTC " +
                           std::to_string(nvrtc().major) + "." + std::to_string(nvrtc().minor) + " compiles for (sm_" +
                           std::to_string(supported.front()) + " to sm_" + std::to_string(supported.back()) + ")");
  }
  return {*(next - 1), false};
}

std::string compile(const Launch& launch, const Target& target) {
  return Compilation(launch).run(options_of(launch, target), target.ptx);
}

Compiler& Compiler::shared() {
  nvrtc();  // opened before, so that it is still there when this is destroyed
  static Compiler compiler(Cache::of_user());
  return compiler;
}

Compiler::~Compiler() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) forked ? thread.detach() : thread.join();
}

const std::string& Compiler::binary(const Launch& launch, int architecture) {
  std::unique_lock<std::mutex> lock(mutex_);
  Job& wanted = job(launch, architecture);
  if (wanted.state == Job::waiting) run(wanted, lock);
  changed_.wait(lock, [&] { return wanted.state == Job::done; });
  if (!wanted.error.empty()) throw Error(wanted.error);
  return wanted.binary;
}

void Compiler::work_ahead(const std::vector<Launch>& launches, int architecture) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto batch = std::make_shared<Batch>(Batch{0, 0, std::chrono::steady_clock::now()});
  for (const Launch& launch : launches) {
    Job& ahead = job(launch, architecture);
    if (ahead.state != Job::waiting || ahead.batch != nullptr || cache_.has_file(ahead.key)) continue;
    ahead.batch = batch;
    queue_.push_back(&ahead);
    batch->kernels = ++batch->left;
  }
  if (batch->kernels == 0) return;
  std::fprintf(stderr, "sasa: compiling %zu CUDA kernels for sm_%d, once (kept in %s)\n", batch->kernels, architecture,
               cache_.directory().empty() ? "memory" : cache_.directory().c_str());
  start_threads();
  changed_.notify_all();
}

Compiler::Job& Compiler::job(const Launch& launch, int architecture) {
  const Target target = target_for(architecture);
  std::string key = describe(launch, target);
  std::unique_ptr<Job>& entry = jobs_[key];
  if (entry == nullptr) {
    entry = std::make_unique<Job>();
    entry->launch = launch, entry->target = target, entry->key = std::move(key);
  }
  return *entry;
}

void Compiler::run(Job& job, std::unique_lock<std::mutex>& lock) {
  job.state = Job::running;
  lock.unlock();
  std::string binary, error;
  try {
    if (auto kept = cache_.load(job.key)) {
      binary = std::move(*kept);
    } else {
      binary = compile(job.launch, job.target);
      cache_.store(job.key, binary);
    }
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  lock.lock();
  job.binary = std::move(binary), job.error = std::move(error);
  finish(job);
}

void Compiler::finish(Job& job) {
  job.state = Job::done;
  if (job.batch != nullptr && --job.batch->left == 0) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - job.batch->begin;
    std::fprintf(stderr, "sasa: %zu CUDA kernels compiled in %.1f s\n", job.batch->kernels, seconds.count());
  }
  changed_.notify_all();
}

void Compiler::start_threads() {
  static const size_t most = std::min(16U, cores());
  try {
    while (!forked && threads_.size() < std::min(most, queue_.size())) threads_.emplace_back([this] { serve(); });
  } catch (const std::system_error&) {  // no more threads: callers then compile what they need themselves
  }
}

void Compiler::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    Job& next = *queue_.front();
    queue_.pop_front();
    if (next.state == Job::waiting) run(next, lock);
  }
}

}  // namespace sasa::cuda
