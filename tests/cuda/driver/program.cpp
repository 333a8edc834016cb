// A program around csrc/cuda_driver.h and cuda_compiler.h, for test_driver.py.
//
//   program why_not                             the sentence why no kernel can be launched here, or "ready"
//   program device ORDINAL                      facts of a GPU
//   program compile ARCHITECTURE KERNEL...      the machine code of each, asked for at once by a thread for each
//   program launch DEVICES THREADS KERNEL...    launches all on each device, from several threads at once
//
// A KERNEL is SOURCE:NAME[:MACRO=VALUE,...][@SHARED], such as sum_parts.cuh:sasa_sum_parts:SASA_STORAGE=0@1024. An error is
// a line on stderr and exit status 1.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <sstream>
#include <thread>

#include "cuda_compiler.h"
#include "cuda_driver.h"

using namespace sasa;

namespace {

std::deque<std::string> strings;  // a Launch only points to them

const char* keep(const std::string& text) {
  strings.push_back(text);
  return strings.back().c_str();
}

Launch parse(const std::string& text) {
  Launch launch;
  launch.grid[0] = 5, launch.grid[1] = 3, launch.grid[2] = 2;
  launch.threads = 128;
  std::istringstream parts(text.substr(0, text.find('@')));
  std::string source, kernel, macros, macro;
  std::getline(parts, source, ':'), std::getline(parts, kernel, ':'), std::getline(parts, macros);
  launch.source = keep(source), launch.kernel = keep(kernel);
  std::istringstream list(macros);
  while (std::getline(list, macro, ',')) {
    const size_t equals = macro.find('=');
    launch.define(keep(macro.substr(0, equals)), std::atoi(macro.c_str() + equals + 1));
  }
  if (text.find('@') != std::string::npos) launch.shared = static_cast<size_t>(std::atoi(&text[text.find('@') + 1]));
  return launch;
}

// Runs task(i) for i < count, each on a thread; an Error of any of them is raised here.
template <class Task>
void on_threads(size_t count, const Task& task) {
  std::vector<std::thread> threads;
  std::vector<std::string> errors(count);
  for (size_t i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      try {
        task(i);
      } catch (const cuda::Error& error) {
        errors[i] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors)
    if (!error.empty()) throw cuda::Error(error);
}

void compile_all(int architecture, const std::vector<Launch>& launches) {
  cuda::Compiler& compiler = cuda::Compiler::shared();
  compiler.work_ahead(launches, architecture);
  std::vector<std::string> binaries(launches.size());
  on_threads(launches.size(), [&](size_t i) { binaries[i] = compiler.binary(launches[i], architecture); });
  for (size_t i = 0; i < launches.size(); ++i) {
    const bool elf = binaries[i].compare(0, 4, "\177ELF") == 0;
    std::printf("%s %s %zu %016llx\n", launches[i].kernel, elf ? "elf" : "ptx", binaries[i].size(),
                static_cast<unsigned long long>(cuda::fnv1a(binaries[i])));
  }
  std::printf("cached %lld\n", static_cast<long long>(compiler.cache().count()));
}

void launch_all(int devices, size_t threads, const std::vector<Launch>& launches) {
  on_threads(threads, [&](size_t) {
    for (int ordinal = 0; ordinal < devices; ++ordinal) {
      const cuda::Device& device = cuda::device(ordinal);
      for (const Launch& launch : launches) {
        int argument = 0;
        void* parameters[] = {&argument};
        const auto stream = reinterpret_cast<cuda::Stream>(static_cast<size_t>(100 + ordinal));
        cuda::launch(device, stream, launch, parameters, [&] { return launches; });
      }
    }
  });
}

int run(const std::vector<std::string>& words) {
  const auto kernels = [&](size_t from) {
    std::vector<Launch> launches;
    for (size_t i = from; i < words.size(); ++i) launches.push_back(parse(words[i]));
    return launches;
  };
  if (words[0] == "why_not") {
    const std::string sentence = cuda::why_not();
    std::printf("%s\n", sentence.empty() ? "ready" : sentence.c_str());
  } else if (words[0] == "device") {
    const cuda::Device& device = cuda::device(std::atoi(words[1].c_str()));
    std::printf("sm_%d %d %zu\n", device.architecture, device.multiprocessors, device.shared_memory);
  } else if (words[0] == "compile") {
    compile_all(std::atoi(words[1].c_str()), kernels(2));
  } else if (words[0] == "launch") {
    launch_all(std::atoi(words[1].c_str()), static_cast<size_t>(std::atoi(words[2].c_str())), kernels(3));
  } else {
    return 2;
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count < 2) return 2;
  try {
    return run(std::vector<std::string>(words + 1, words + count));
  } catch (const cuda::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
