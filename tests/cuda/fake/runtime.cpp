// A stand-in for the part of the CUDA runtime that torch calls to allocate, copy and keep streams apart: preloaded, it
// makes torch see GPUs (FAKE_CUDA_DEVICES of them) whose memory is the host's. Fresh memory is NaN. torch's own kernels
// do not run: a launch of one is an error. Everything happens at once, whatever the stream.
//
// Declared here as CUDA 13 has it, since its headers are not everywhere: an error is an int, a handle a pointer.
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kNoMemory = 2, kInvalidDevice = 101, kLaunchFailure = 719;

// The start of cudaDeviceProp, as far as torch looks at it.
struct Properties {
  char name[256];
  char identity[32];
  size_t memory, shared_memory_of_block;
  int registers_of_block, warp_size;
  size_t memory_pitch;
  int threads_of_block, other[9], major, minor;
  size_t alignments[2];
  int multiprocessors;
  char rest[620];
};
static_assert(offsetof(Properties, memory) == 288 && offsetof(Properties, warp_size) == 308);
static_assert(offsetof(Properties, threads_of_block) == 320 && offsetof(Properties, major) == 360);
static_assert(offsetof(Properties, multiprocessors) == 384 && sizeof(Properties) == 1008);

struct Dim3 {
  unsigned x, y, z;
};

thread_local int current = 0, last_error = 0;
std::atomic<size_t> handles{1000};  // of streams and events

int devices() {
  const char* value = std::getenv("FAKE_CUDA_DEVICES");
  return value == nullptr ? 1 : std::atoi(value);
}

int refuse_kernel() {
  std::fputs("the fake CUDA runtime was asked for one of torch's own kernels\n", stderr);
  return last_error = kLaunchFailure;
}

int new_handle(void** handle) {
  *handle = reinterpret_cast<void*>(++handles);
  return 0;
}

}  // namespace

EXPORT int cudaGetDeviceCount(int* count) {
  *count = devices();
  return 0;
}

EXPORT int cudaGetDevice(int* device) {
  *device = current;
  return 0;
}

EXPORT int cudaSetDevice(int device) {
  if (device < 0 || device >= devices()) return kInvalidDevice;
  current = device;
  return 0;
}

EXPORT int cudaDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}

EXPORT int cudaGetDeviceProperties(Properties* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  std::strcpy(properties->name, "a fake GPU");
  properties->major = 9;
  properties->multiprocessors = 132;
  properties->memory = size_t{1} << 33;
  properties->warp_size = 32;
  properties->threads_of_block = 1024;
  return 0;
}

EXPORT int cudaDeviceGetAttribute(int* value, int, int) {
  *value = 0;
  return 0;
}

EXPORT int cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -1;
  return 0;
}

EXPORT int cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return 0;
}

EXPORT int cudaDeviceSynchronize() { return 0; }
EXPORT int cudaPeekAtLastError() { return last_error; }

EXPORT int cudaGetLastError() {
  const int error = last_error;
  last_error = 0;
  return error;
}

EXPORT int cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = size_t{1} << 33;
  return 0;
}

EXPORT int cudaMalloc(void** pointer, size_t size) {
  *pointer = std::aligned_alloc(512, (size + 511) / 512 * 512);
  if (*pointer == nullptr) return kNoMemory;
  std::memset(*pointer, 0xff, size);
  return 0;
}

EXPORT int cudaFree(void* pointer) {
  std::free(pointer);
  return 0;
}

EXPORT int cudaHostAlloc(void** pointer, size_t size, unsigned) { return cudaMalloc(pointer, size); }
EXPORT int cudaFreeHost(void* pointer) { return cudaFree(pointer); }

EXPORT int cudaMemcpyAsync(void* to, const void* from, size_t size, int, void*) {
  std::memcpy(to, from, size);
  return 0;
}

EXPORT int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, void*) {
  std::memcpy(to, from, size);
  return 0;
}

EXPORT int cudaMemsetAsync(void* to, int value, size_t size, void*) {
  std::memset(to, value, size);
  return 0;
}

EXPORT int cudaPointerGetAttributes(int* attributes, const void*) {
  std::memset(attributes, 0, 88);
  attributes[0] = 2;  // memory of a device
  return 0;
}

EXPORT int cudaStreamCreateWithPriority(void** stream, unsigned, int) { return new_handle(stream); }
EXPORT int cudaStreamSynchronize(void*) { return 0; }
EXPORT int cudaStreamQuery(void*) { return 0; }
EXPORT int cudaStreamWaitEvent(void*, void*, unsigned) { return 0; }

EXPORT int cudaStreamGetPriority(void*, int* priority) {
  *priority = 0;
  return 0;
}

EXPORT int cudaStreamIsCapturing(void*, int* status) {
  *status = 0;
  return 0;
}

EXPORT int cudaStreamGetCaptureInfo(void*, int* status, ...) {
  *status = 0;
  return 0;
}

EXPORT int cudaThreadExchangeStreamCaptureMode(int*) { return 0; }

EXPORT int cudaEventCreateWithFlags(void** event, unsigned) { return new_handle(event); }
EXPORT int cudaEventDestroy(void*) { return 0; }
EXPORT int cudaEventRecord(void*, void*) { return 0; }
EXPORT int cudaEventRecordWithFlags(void*, void*, unsigned) { return 0; }
EXPORT int cudaEventQuery(void*) { return 0; }
EXPORT int cudaEventSynchronize(void*) { return 0; }

EXPORT int cudaLaunchKernel(const void*, Dim3, Dim3, void**, size_t, void*) { return refuse_kernel(); }
EXPORT int __cudaGetKernel(void** kernel, const void*) { return new_handle(kernel); }
EXPORT int __cudaLaunchKernel(void*, Dim3, Dim3, void**, size_t, void*) { return refuse_kernel(); }
EXPORT int cudaLaunchKernelExC(const void*, const void*, void**) { return refuse_kernel(); }
