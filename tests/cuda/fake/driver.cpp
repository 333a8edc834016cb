// A stand-in for libcuda.so.1: it checks what it is asked for as the driver would, writes loads and launches into a file,
// and runs nothing, unless a module is what the fake NVRTC (nvrtc.cpp) gave and a builder was set: then it runs the
// emulated kernel at once.
//
// Environment: FAKE_CUDA_LOG, the file; FAKE_CUDA_DEVICES, how many GPUs; FAKE_CUDA_ARCHITECTURE, such as 90;
// FAKE_CUDA_VERSION, such as 13000; FAKE_CUDA_FAIL, "cuLaunchKernel=700": that function gives this error;
// FAKE_CUDA_CAPTURING, 1: every stream is being captured.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kInvalidValue = 1, kNotInitialized = 3, kNoDevice = 100, kInvalidDevice = 101, kInvalidImage = 200;
constexpr int kInvalidContext = 201, kNotFound = 500, kLaunchFailed = 719;
constexpr int kMostDevices = 8;

// The C interface of an emulated kernel (tests/cuda/emulation/launch.h).
using Emulate = const char* (*)(const unsigned* grid, unsigned threads, unsigned shared, void** arguments,
                                const uintptr_t* buffers, int buffer_count, void* counts);

struct Context {
  int device;
};
struct Module {
  int device;
  std::string image;
};
struct Function {
  Module* module;
  std::string name;
  int most_shared = 48 * 1024;
  Emulate emulate = nullptr;
};

Context contexts[kMostDevices] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
thread_local Context* current = nullptr;
bool initialised = false;
std::mutex mutex;  // of the emulator, which runs one kernel at a time

int number(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

__attribute__((format(printf, 1, 2))) void record(const char* format, ...) {
  const char* path = std::getenv("FAKE_CUDA_LOG");
  if (path == nullptr || *path == '\0') return;
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  const int length = std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  const int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (write(file, line, static_cast<size_t>(length)) != length) std::abort();
  close(file);
}

// The error that the environment asks for, else 0.
int wanted_error(const char* function) {
  const char* value = std::getenv("FAKE_CUDA_FAIL");
  if (value == nullptr) return 0;
  const size_t length = std::strlen(function);
  return std::strncmp(value, function, length) == 0 && value[length] == '=' ? std::atoi(value + length + 1) : 0;
}

int attribute_of(int attribute) {
  const int architecture = number("FAKE_CUDA_ARCHITECTURE", 90);
  switch (attribute) {
    case 16: return 132;                // multiprocessors
    case 75: return architecture / 10;  // compute capability
    case 76: return architecture % 10;
    case 97:
      return architecture == 80 ? 163 * 1024 : architecture == 90 || architecture == 100 ? 227 * 1024 : 99 * 1024;
    default: std::abort();
  }
}

// Bytes of an ELF file that ends with its section headers, as machine code and shared objects do; 0: not such a file.
size_t size_of_elf(const void* image) {
  const auto& header = *static_cast<const Elf64_Ehdr*>(image);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return 0;
  return header.e_shoff + static_cast<size_t>(header.e_shentsize) * header.e_shnum;
}

}  // namespace

// `builder`: what a module says and a kernel's name -> the file of a shared object that emulates it, or nullptr.
using Builder = const char* (*)(const char* module, const char* kernel);

namespace {

Builder builder = nullptr;

Emulate emulated(const std::string& image, const char* kernel) {
  const char* file = builder(image.c_str(), kernel);
  void* library = file == nullptr ? nullptr : dlopen(file, RTLD_NOW | RTLD_LOCAL);
  return library == nullptr ? nullptr : reinterpret_cast<Emulate>(dlsym(library, "emulate"));
}

bool is_emulated(const char* image) { return std::strncmp(image, "emulated ", 9) == 0; }

}  // namespace

EXPORT void fake_cuda_set_builder(Builder given) { builder = given; }

EXPORT int cuInit(unsigned) {
  if (const int error = wanted_error("cuInit")) return error;
  if (number("FAKE_CUDA_DEVICES", 1) == 0) return kNoDevice;
  initialised = true;
  return 0;
}

EXPORT int cuDriverGetVersion(int* version) {
  *version = number("FAKE_CUDA_VERSION", 13000);
  return 0;
}

EXPORT int cuGetErrorName(int error, const char** name) {
  *name = error == kLaunchFailed ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_OF_THE_TEST";
  return 0;
}

EXPORT int cuGetErrorString(int, const char** text) {
  *text = "an error of the test";
  return 0;
}

EXPORT int cuGetExportTable(const void** table, const void*) {  // NVRTC asks for one, and does without
  *table = nullptr;
  return kNotFound;
}

EXPORT int cuDeviceGetCount(int* count) {
  *count = number("FAKE_CUDA_DEVICES", 1);
  return initialised ? 0 : kNotInitialized;
}

EXPORT int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  if (!initialised) return kNotInitialized;
  return ordinal < number("FAKE_CUDA_DEVICES", 1) ? 0 : kInvalidDevice;
}

EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute_of(attribute);
  return initialised ? 0 : kNotInitialized;
}

EXPORT int cuDevicePrimaryCtxRetain(Context** context, int device) {
  *context = &contexts[device];
  return initialised ? 0 : kNotInitialized;
}

EXPORT int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {  // torch asks for it
  *flags = 0, *active = 1;
  return 0;
}

EXPORT int cuCtxGetCurrent(Context** context) {
  *context = current;
  return initialised ? 0 : kNotInitialized;
}

EXPORT int cuCtxSetCurrent(Context* context) {
  current = context;
  return initialised ? 0 : kNotInitialized;
}

EXPORT int cuModuleLoadData(Module** module, const void* image) {
  if (current == nullptr) return kInvalidContext;
  if (const int error = wanted_error("cuModuleLoadData")) return error;
  const char* bytes = static_cast<const char*>(image);
  const size_t size = size_of_elf(image);
  const bool text = size == 0 && (is_emulated(bytes) || std::strstr(bytes, ".version") != nullptr);
  if (size == 0 && !text) return kInvalidImage;
  *module = new Module{current->device, text ? std::string(bytes) : std::string(bytes, size)};
  record("load device=%d format=%s\n", current->device, text ? "text" : "elf");
  return 0;
}

EXPORT int cuModuleGetFunction(Function** function, Module* module, const char* name) {
  if (current == nullptr || current->device != module->device) return kInvalidContext;
  const bool emulate = is_emulated(module->image.c_str());
  if (!emulate && module->image.find(name) == std::string::npos) return kNotFound;
  *function = new Function{module, name};
  if (!emulate || builder == nullptr) return 0;
  (*function)->emulate = emulated(module->image, name);
  return (*function)->emulate != nullptr ? 0 : kNotFound;
}

EXPORT int cuFuncSetAttribute(Function* function, int attribute, int value) {
  if (attribute != 8 || value > attribute_of(97)) return kInvalidValue;
  function->most_shared = value;
  return 0;
}

EXPORT int cuStreamIsCapturing(void*, int* status) {
  *status = number("FAKE_CUDA_CAPTURING", 0);
  return 0;
}

EXPORT int cuStreamSynchronize(void* stream) {
  record("synchronize stream=%zu\n", reinterpret_cast<size_t>(stream));
  return wanted_error("cuStreamSynchronize");
}

EXPORT int cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                          unsigned threads_z, unsigned shared, void* stream, void** parameters, void** extra) {
  if (const int error = wanted_error("cuLaunchKernel")) return error;
  if (current == nullptr || current->device != function->module->device) return kInvalidContext;
  if (x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535 || threads == 0 || threads > 1024) return kInvalidValue;
  if (threads_y != 1 || threads_z != 1 || extra != nullptr || parameters == nullptr) return kInvalidValue;
  if (shared > static_cast<unsigned>(function->most_shared)) return kInvalidValue;
  record("launch %s device=%d stream=%zu grid=%u,%u,%u threads=%u shared=%u\n", function->name.c_str(), current->device,
         reinterpret_cast<size_t>(stream), x, y, z, threads, shared);
  if (function->emulate == nullptr) return 0;
  const unsigned grid[3] = {x, y, z};
  const std::lock_guard<std::mutex> lock(mutex);
  const char* error = function->emulate(grid, threads, shared, parameters, nullptr, 0, nullptr);
  if (error == nullptr) return 0;
  std::fprintf(stderr, "%s: %s\n", function->name.c_str(), error);
  return kLaunchFailed;
}
