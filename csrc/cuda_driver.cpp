#include "cuda_driver.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "cuda_compiler.h"

namespace sasa::cuda {
namespace {

// Numbers of cuda.h.
constexpr int kMultiprocessors = 16, kCapabilityMajor = 75, kCapabilityMinor = 76, kSharedMemoryOptin = 97;
constexpr int kMaxDynamicSharedMemory = 8;  // of a function

// A kernel's name for the table: strings of a plan are literals, so their addresses tell them apart. (The same literal
// at two addresses only makes two entries.)
struct Name {
  const char *source, *kernel;
  Define defines[sizeof(Launch::defines) / sizeof(Define)];
  int count;

  explicit Name(const Launch& launch) : source(launch.source), kernel(launch.kernel), count(launch.define_count) {
    for (int i = 0; i < count; ++i) defines[i] = launch.defines[i];
  }

  bool operator==(const Name& other) const {
    if (source != other.source || kernel != other.kernel || count != other.count) return false;
    for (int i = 0; i < count; ++i)
      if (defines[i].name != other.defines[i].name || defines[i].value != other.defines[i].value) return false;
    return true;
  }
};

struct HashOfName {
  size_t operator()(const Name& name) const {
    size_t hash = reinterpret_cast<size_t>(name.kernel);
    for (int i = 0; i < name.count; ++i) hash = hash * 31 + static_cast<size_t>(name.defines[i].value);
    return hash;
  }
};

struct DeviceState : Device {
  explicit DeviceState(const Device& facts) : Device(facts) {}
  std::mutex loading;       // one thread at a time: a module is loaded once
  std::shared_mutex mutex;  // of the table
  std::unordered_map<Name, Function, HashOfName> functions;
};

void make_current(const Device& device) {
  Context current = nullptr;
  check(driver().current_context(&current), "asking for the CUDA context");
  if (current != device.context) check(driver().set_current_context(device.context), "setting the CUDA context");
}

// The driver runs machine code of its own major version of CUDA and of earlier ones.
void check_versions() {
  int version = 0;
  check(driver().init(0), "starting the CUDA driver");
  check(driver().version(&version), "asking for the version of the CUDA driver");
  if (version / 1000 >= nvrtc().major) return;
  throw UnsupportedError("the driver is too old: it runs CUDA " + std::to_string(version / 1000) + "." +
                         std::to_string(version % 1000 / 10) + ", and NVRTC compiles for CUDA " +
                         std::to_string(nvrtc().major) + "." + std::to_string(nvrtc().minor));
}

int attribute(int device, int which) {
  int value = 0;
  check(driver().device_attribute(&value, which, device), "asking for an attribute of the GPU");
  return value;
}

Device open_device(int ordinal) {
  check_versions();
  int handle = 0;
  check(driver().device(&handle, ordinal), ("finding the GPU cuda:" + std::to_string(ordinal)).c_str());
  Device facts = {};
  facts.ordinal = ordinal;
  facts.architecture = 10 * attribute(handle, kCapabilityMajor) + attribute(handle, kCapabilityMinor);
  facts.multiprocessors = attribute(handle, kMultiprocessors);
  facts.shared_memory = static_cast<size_t>(attribute(handle, kSharedMemoryOptin));
  target_for(facts.architecture);
  check(driver().retain_primary_context(&facts.context, handle), "taking the GPU's primary context");
  return facts;
}

// Never destroyed: torch may launch while the process ends.
DeviceState& state_of(int ordinal) {
  static std::mutex& mutex = *new std::mutex;
  static auto& states = *new std::vector<std::unique_ptr<DeviceState>>;
  const std::lock_guard<std::mutex> lock(mutex);
  const size_t index = static_cast<size_t>(ordinal);
  if (index >= states.size()) states.resize(index + 1);
  if (states[index] == nullptr) states[index] = std::make_unique<DeviceState>(open_device(ordinal));
  return *states[index];
}

// Every Device that is handed out is one of `state_of(ordinal)`.
DeviceState& state_of(const Device& device) { return static_cast<DeviceState&>(const_cast<Device&>(device)); }

void check_not_capturing(Stream stream, const Launch& launch) {
  int capturing = 0;
  if (driver().is_capturing(stream, &capturing) == 0 && capturing == 0) return;
  throw Error(std::string("the CUDA kernel ") + launch.kernel +
              " is used for the first time while a CUDA graph is captured, and cannot be loaded then: run the model "
              "once before capturing it");
}

Function load_function(const Device& device, const Launch& launch, const std::string& binary) {
  make_current(device);
  Module module = nullptr;
  Function function = nullptr;
  const std::string doing = std::string("loading the CUDA kernel ") + launch.kernel;
  check(driver().load_module(&module, binary.c_str()), doing.c_str());
  check(driver().module_function(&function, module, launch.kernel), doing.c_str());
  // How much a launch takes depends on its shapes: the most that there is, once, so that no launch has to ask.
  check(driver().set_function_attribute(function, kMaxDynamicSharedMemory, static_cast<int>(device.shared_memory)),
        doing.c_str());
  return function;
}

bool launches_block() {
  static const bool blocking = [] {
    const char* value = std::getenv("CUDA_LAUNCH_BLOCKING");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  return blocking;
}

// With CUDA_LAUNCH_BLOCKING, so that an error of the kernel is raised where it was launched.
void wait_for(Stream stream, const std::string& doing) {
  int capturing = 0;
  if (driver().is_capturing(stream, &capturing) != 0 || capturing != 0) return;
  check(driver().synchronize(stream), doing.c_str());
}

}  // namespace

const Device& device(int ordinal) {
  if (ordinal < 0) throw Error("a CUDA device index must not be negative, got " + std::to_string(ordinal));
  return state_of(ordinal);
}

Function find(const Device& device, const Launch& launch) {
  DeviceState& state = state_of(device);
  const std::shared_lock<std::shared_mutex> lock(state.mutex);
  const auto found = state.functions.find(Name(launch));
  return found == state.functions.end() ? nullptr : found->second;
}

Function load(const Device& device, Stream stream, const Launch& launch, const std::vector<Launch>& family) {
  check_not_capturing(stream, launch);
  if (launch.shared > device.shared_memory) {
    throw UnsupportedError(std::string("the CUDA kernel ") + launch.kernel + " needs " + std::to_string(launch.shared) +
                           " bytes of shared memory, and this GPU has " + std::to_string(device.shared_memory) +
                           " for a block");
  }
  Compiler& compiler = Compiler::shared();
  compiler.work_ahead(family, device.architecture);
  const std::string& binary = compiler.binary(launch, device.architecture);
  DeviceState& state = state_of(device);
  const std::lock_guard<std::mutex> alone(state.loading);
  if (const Function loaded = find(device, launch)) return loaded;  // another thread was first
  const Function function = load_function(device, launch, binary);
  const std::lock_guard<std::shared_mutex> lock(state.mutex);
  return state.functions.emplace(Name(launch), function).first->second;
}

void run(const Device& device, Stream stream, const Launch& launch, Function function, void** parameters) {
  make_current(device);
  const int result = driver().launch(function, launch.grid[0], launch.grid[1], launch.grid[2], launch.threads, 1, 1,
                                     static_cast<unsigned>(launch.shared), stream, parameters, nullptr);
  if (result == 0 && !launches_block()) return;
  const std::string doing =
      std::string("launching the CUDA kernel ") + launch.kernel + " on cuda:" + std::to_string(device.ordinal);
  check(result, doing.c_str());
  wait_for(stream, doing);
}

}  // namespace sasa::cuda
