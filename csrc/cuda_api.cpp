#include "cuda_api.h"

#include <dirent.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace sasa::cuda {
namespace {

// Names of NVRTC, by the major version of CUDA; the newest first.
const char* const nvrtc_names[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
// Where pip's packages of CUDA 13 and 12 put it, seen from the directory of libtorch_cpu.so.
const char* const beside_torch[] = {"", "../../nvidia/cu13/lib/", "../../nvidia/cuda_nvrtc/lib/"};

// The file of a loaded library that defines `symbol`.
std::string file_of(void* library, const char* symbol) {
  Dl_info info = {};
  void* address = dlsym(library, symbol);
  return address != nullptr && dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

std::string directory_of(const std::string& file) { return file.substr(0, file.rfind('/') + 1); }

// NVRTC opens its builtins by a plain name, which only succeeds where they are loaded already.
void load_builtins(const std::string& directory) {
  DIR* listing = opendir(directory.empty() ? "." : directory.c_str());
  if (listing == nullptr) return;
  while (const dirent* entry = readdir(listing)) {
    const bool builtins = std::strncmp(entry->d_name, "libnvrtc-builtins.so", 20) == 0;
    if (builtins && dlopen((directory + entry->d_name).c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) break;
  }
  closedir(listing);
}

void* open_with_builtins(const std::string& file) {
  load_builtins(directory_of(file));
  return dlopen(file.c_str(), RTLD_NOW);
}

void* find_nvrtc() {
  const char* wanted = std::getenv("SASA_NVRTC");
  if (wanted != nullptr && *wanted != '\0') {
    void* library = open_with_builtins(wanted);
    if (library == nullptr) throw Error(std::string("SASA_NVRTC=") + wanted + " does not load: " + dlerror());
    return library;
  }
  for (const char* name : nvrtc_names) {
    if (void* loaded = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) {
      load_builtins(directory_of(file_of(loaded, "nvrtcVersion")));
      return loaded;
    }
  }
  if (void* torch = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD)) {
    const std::string directory = directory_of(file_of(torch, "aoti_torch_abi_version"));
    for (const char* name : nvrtc_names)
      for (const char* place : beside_torch)
        if (void* library = open_with_builtins(directory + place + name)) return library;
  }
  for (const char* name : nvrtc_names)
    if (void* library = dlopen(name, RTLD_NOW)) return library;
  throw Error("NVRTC, the compiler of CUDA kernels, was not found: pip install nvidia-cuda-nvrtc (or set SASA_NVRTC)");
}

template <class F>
void get(void* library, const char* what, const char* symbol, F& function) {
  function = reinterpret_cast<F>(dlsym(library, symbol));
  if (function == nullptr) throw Error(std::string(what) + " is too old: it has no " + symbol);
}

Nvrtc open_nvrtc() {
  void* library = find_nvrtc();
  Nvrtc api = {};
  api.file = file_of(library, "nvrtcVersion");
  const auto find = [&](const char* symbol, auto& function) { get(library, "NVRTC", symbol, function); };
  find("nvrtcGetErrorString", api.error_string);
  find("nvrtcVersion", api.version);
  find("nvrtcGetNumSupportedArchs", api.count_architectures);
  find("nvrtcGetSupportedArchs", api.architectures);
  find("nvrtcCreateProgram", api.create);
  find("nvrtcDestroyProgram", api.destroy);
  find("nvrtcCompileProgram", api.compile);
  find("nvrtcGetProgramLogSize", api.log_size);
  find("nvrtcGetProgramLog", api.log);
  find("nvrtcGetCUBINSize", api.cubin_size);
  find("nvrtcGetCUBIN", api.cubin);
  find("nvrtcGetPTXSize", api.ptx_size);
  find("nvrtcGetPTX", api.ptx);
  int count = 0;
  if (api.version(&api.major, &api.minor) != 0 || api.count_architectures(&count) != 0 || count <= 0)
    throw Error("NVRTC (" + api.file + ") does not answer");
  api.supported.resize(static_cast<size_t>(count));
  api.architectures(api.supported.data());
  return api;
}

Driver open_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (library == nullptr) throw Error("there is no NVIDIA driver here (libcuda.so.1 was not found)");
  Driver api = {};
  const auto find = [&](const char* symbol, auto& function) { get(library, "the NVIDIA driver", symbol, function); };
  find("cuInit", api.init);
  find("cuDriverGetVersion", api.version);
  find("cuGetErrorName", api.error_name);
  find("cuGetErrorString", api.error_string);
  find("cuDeviceGetCount", api.device_count);
  find("cuDeviceGet", api.device);
  find("cuDeviceGetAttribute", api.device_attribute);
  find("cuDevicePrimaryCtxRetain", api.retain_primary_context);
  find("cuCtxGetCurrent", api.current_context);
  find("cuCtxSetCurrent", api.set_current_context);
  find("cuModuleLoadData", api.load_module);
  find("cuModuleGetFunction", api.module_function);
  find("cuFuncSetAttribute", api.set_function_attribute);
  find("cuLaunchKernel", api.launch);
  find("cuStreamIsCapturing", api.is_capturing);
  find("cuStreamSynchronize", api.synchronize);
  return api;
}

// A value, or the sentence that says why there is none: determined once, raised at each use.
template <class T>
class Once {
 public:
  explicit Once(T (*open)()) {
    try {
      value_ = open();
    } catch (const Error& error) {
      error_ = error.what();
    }
  }
  const T& get() const {
    if (!error_.empty()) throw Error(error_);
    return value_;
  }

 private:
  T value_ = {};
  std::string error_;
};

}  // namespace

const Nvrtc& nvrtc() {
  static const Once<Nvrtc> once(open_nvrtc);
  return once.get();
}

const Driver& driver() {
  static const Once<Driver> once(open_driver);
  return once.get();
}

std::string why_not() {
  try {
    driver();
    nvrtc();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void check(int result, const char* doing) {
  if (result == 0) return;
  const char *name = nullptr, *text = nullptr;
  driver().error_name(result, &name);
  driver().error_string(result, &text);
  throw Error(std::string(doing) + " failed: " + (text != nullptr ? text : "unknown error") + " (" +
              (name != nullptr ? name : std::to_string(result).c_str()) + ")");
}

}  // namespace sasa::cuda
